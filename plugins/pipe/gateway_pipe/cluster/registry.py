"""The registry in Redis: one key for each gateway process, which runs out with it, and one for each node.

``gateway:pipe:at:<instance>`` is a hash with the process's address in the field "" and a node's description in the
field of its name; ``gateway:pipe:node:<name>`` is ``<epoch> <instance>``; ``gateway:pipe:gateways`` is the set of
instances. A node's key counts only while its process's key lives, so nothing has to be renewed for each node.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gateway_pipe.hub.directory import NodeInfo

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "gateway:pipe:"
KEEP_S = 60
"""Life of a node's key without ``claim``: longer than it takes to look through all of them."""

_encode = json.JSONEncoder(separators=(",", ":")).encode

_CLAIM = """
local prefix, me, channel, address, life_ms, keep_s = unpack(ARGV, 1, 6)
local at = KEYS[1]
local there = redis.call('EXISTS', at)
redis.call('HSET', at, '', address)
redis.call('PEXPIRE', at, life_ms)
redis.call('SADD', prefix .. 'gateways', me)
local told, newer, lacking = {}, {}, {}
for i = 7, #ARGV, 3 do
  local name, epoch, info = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key, value = prefix .. 'node:' .. name, epoch .. ' ' .. me
  local held = redis.call('GET', key) or ''
  local theirs, holder = string.match(held, '^(%d+) (.+)$')
  if holder and holder ~= me and tonumber(theirs) > tonumber(epoch)
      and redis.call('EXISTS', prefix .. 'at:' .. holder) == 1 then
    redis.call('HDEL', at, name)
    newer[#newer + 1] = name
    newer[#newer + 1] = theirs
  elseif info == '' and redis.call('HEXISTS', at, name) == 0 then
    lacking[#lacking + 1] = name
  else
    redis.call('SET', key, value, 'EX', keep_s)
    if info ~= '' then redis.call('HSET', at, name, info) end
    if held ~= value then
      told[#told + 1] = name
      told[#told + 1] = epoch
    end
  end
end
if #told > 0 then redis.call('PUBLISH', channel, cjson.encode({me, told})) end
return {there, newer, lacking}
"""

_RELEASE = """
local prefix, me, channel = unpack(ARGV, 1, 3)
local told = {}
for i = 4, #ARGV do
  local name = ARGV[i]
  local key = prefix .. 'node:' .. name
  local holder = string.match(redis.call('GET', key) or '', '^%d+ (.+)$')
  redis.call('HDEL', KEYS[1], name)
  if holder == me then
    redis.call('DEL', key)
    told[#told + 1] = name
    told[#told + 1] = '0'
  end
end
if #told > 0 then redis.call('PUBLISH', channel, cjson.encode({me, told})) end
"""

_LOOK = """
local found = {}
for i = 2, #ARGV do
  local holder = string.match(redis.call('GET', ARGV[1] .. 'node:' .. ARGV[i]) or '', '^%d+ (.+)$')
  found[i - 1] = holder and redis.call('HMGET', ARGV[1] .. 'at:' .. holder, '', ARGV[i]) or {}
end
return found
"""

_LIVING = """
local living = {}
for _, instance in ipairs(redis.call('SMEMBERS', ARGV[1] .. 'gateways')) do
  if redis.call('EXISTS', ARGV[1] .. 'at:' .. instance) == 1 then
    living[#living + 1] = instance
  else
    redis.call('SREM', ARGV[1] .. 'gateways', instance)
  end
end
return living
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A node, and the address of the gateway process that holds it."""

    info: NodeInfo
    address: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """What ``claim`` found.

    ``there`` tells whether this process's key was there still, ``newer`` the epochs of newer connections that nodes
    have elsewhere, ``lacking`` the nodes that were claimed without a description though none was there.
    """

    there: bool
    newer: Mapping[str, int]
    lacking: Sequence[str]


class Registry:
    """The entries of one process, and what others wrote. Every method raises RedisError or OSError, after any time."""

    def __init__(self, client: Redis, *, instance: str, channel: str, life_s: float) -> None:
        self._client = client
        self._me = instance
        self._channel = channel
        self._life_ms = int(life_s * 1000)
        self._at = f"{PREFIX}at:{instance}"
        self._claim, self._release, self._look, self._living = (
            client.register_script(text) for text in (_CLAIM, _RELEASE, _LOOK, _LIVING)
        )

    async def claim(self, address: str, nodes: Iterable[tuple[str, int, str]] = ()) -> Claimed:
        """Say that this process lives, and that it holds ``nodes``: (name, epoch, description).

        An older epoch never replaces a newer one of a process that lives. An empty description leaves the one that is
        there; where none is, nothing is said of the node. Other processes are told of what is new.
        """
        arguments: list[str | int] = [PREFIX, self._me, self._channel, address, self._life_ms, KEEP_S]
        for node in nodes:
            arguments += node
        there, newer, lacking = await self._claim(keys=[self._at], args=arguments)
        names = [name.decode() for name in newer[::2]]
        return Claimed(bool(there), dict(zip(names, map(int, newer[1::2]), strict=True)), [n.decode() for n in lacking])

    async def release(self, names: Iterable[str]) -> None:
        """Say that this process holds these nodes no more; what others hold by now stays."""
        await self._release(keys=[self._at], args=[PREFIX, self._me, self._channel, *names])

    async def leave(self) -> None:
        """Take this process out; its nodes' keys run out by themselves."""
        await self._client.delete(self._at)

    async def look(self, names: Sequence[str]) -> list[Found | None]:
        """Where each of ``names`` is, this process not counted; None for those that are nowhere."""
        rows = await self._look(args=[PREFIX, *names])
        found = [_found(*row) if row else None for row in rows]
        return [None if each is None or each.info.gateway == self._me else each for each in found]

    async def everywhere(self) -> dict[str, tuple[str, list[bytes]]]:
        """Address and nodes' descriptions (see ``parse``) of each living process but this one, by instance."""
        others = [name.decode() for name in await self._living(args=[PREFIX]) if name.decode() != self._me]
        async with self._client.pipeline(transaction=False) as pipeline:
            for instance in others:
                pipeline.hgetall(f"{PREFIX}at:{instance}")
            tables: list[dict[bytes, bytes]] = await pipeline.execute()
        return {
            instance: (table.pop(b"").decode(), list(table.values()))
            for instance, table in zip(others, tables, strict=True)
            if b"" in table
        }


def describe(info: NodeInfo) -> str:
    """The form in which ``info`` stands in Redis."""
    return _encode(asdict(info))


def parse(description: bytes) -> NodeInfo | None:
    """What ``describe`` wrote; None for something else, as a later version may write it."""
    try:
        fields: dict[str, Any] = json.loads(description)
        known = {name: fields[name] for name in NodeInfo.__dataclass_fields__ if name in fields}
        lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
        return NodeInfo(**{**known, **lists})
    except (ValueError, TypeError):
        return None


def _found(address: bytes | None, description: bytes | None) -> Found | None:
    info = parse(description) if description is not None else None
    return Found(info, address.decode()) if info is not None and address is not None else None

"""The authority's rows on both databases, and TLS between gateways."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from cryptography import x509

from gateway_core.auth.keyring import Keyring
from gateway_pipe.identity.authority import Authority, Purpose
from gateway_pipe.identity.contexts import peer_contexts, peer_instance
from gateway_pipe.identity.signing import new_issuer, new_key, signing_request
from gateway_pipe.settings import PipeSettings
from tests.pipe.identity_stand import leaf

pytest_plugins = ("tests.pipe.databases",)


async def test_life_of_a_certificate_in_the_database(pipe_db):
    authority = Authority(pipe_db, Keyring(["a key of more than 16"]), PipeSettings())
    await authority.init()
    token, _ = await authority.invite("node1", ttl_s=60)
    answer = await authority.enrol(token, signing_request(new_key(), "x"))
    serial = f"{x509.load_pem_x509_certificate(answer['certificate'].encode()).serial_number:x}"
    issued = await authority.revocations.issued(serial)
    assert await authority.revocations.current() == {}
    assert await authority.revocations.revoke("node1")
    assert (await authority.revocations.current())["node1"].covers(issued)
    await authority.invite("node1", ttl_s=60)
    standing = (await authority.revocations.current())["node1"]
    assert standing.covers(issued)
    assert not standing.covers(standing.lifted)
    await authority.sweep()
    assert await authority.revocations.issued(serial) == issued


async def test_processes_that_start_at_once_agree_on_one_authority(pipe_db):
    keyring = Keyring(["a key of more than 16"])
    processes = [Authority(pipe_db, keyring, PipeSettings()) for _ in range(5)]
    made = await asyncio.gather(*(process.issuer(Purpose.PEERS, create=True) for process in processes))
    assert len({issuer.pin for issuer in made}) == 1


async def test_many_that_ask_for_revocations_at_once_share_the_look(pipe_db):
    revocations = Authority(pipe_db, Keyring(["a key of more than 16"]), PipeSettings()).revocations
    early = [asyncio.ensure_future(revocations.current()) for _ in range(50)]
    await revocations.revoke("node1")
    late = await asyncio.gather(*(revocations.current() for _ in range(50)))
    assert all("node1" in found for found in late)
    assert len({id(found) for found in late}) == 1
    await asyncio.gather(*early)


async def _talk(server, client):
    """What each end knows of the other; raises what the client's end raises."""
    heard: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    async def answer(_reader, writer):
        heard.set_result(peer_instance(writer.get_extra_info("ssl_object")))
        writer.write(b"x")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server)
    async with listening:
        host, port = listening.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port, ssl=client, server_hostname="elsewhere")
        try:
            assert await reader.read(1) == b"x"
            return await heard, peer_instance(writer.get_extra_info("ssl_object"))
        finally:
            writer.close()


async def test_gateways_know_each_other_by_instance():
    issuer = new_issuer("peers")
    one = peer_contexts(issuer.pem, issuer.peer("host a:1:ff", days=1))
    two = peer_contexts(issuer.pem, issuer.peer("host-b:2:ee", days=1))
    assert await _talk(one.server, two.client) == ("host-b:2:ee", "host a:1:ff")


async def test_node_is_no_peer(tmp_path):
    issuer, nodes = new_issuer("peers"), new_issuer("nodes")
    gateway = peer_contexts(issuer.pem, issuer.peer("a:1:f", days=1))
    with pytest.raises((OSError, ssl.SSLError, AssertionError)):
        await _talk(gateway.server, leaf(nodes).context(issuer.pem, tmp_path))
    unmarked = leaf(issuer)
    context = unmarked.context(issuer.pem, tmp_path)
    context.check_hostname = False
    with pytest.raises((OSError, ssl.SSLError, AssertionError)):
        await _talk(gateway.server, context)

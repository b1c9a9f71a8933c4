-- wrk asks for all files in turn and says in the end, on one line of JSON, how it went.
local texts, at = {}, 0

function init(args)
  for number = 0, tonumber(args[1]) - 1 do
    texts[number + 1] = wrk.format("GET", string.format("/tiny/%04d.bin", number))
  end
end

function request()
  at = at % #texts + 1
  return texts[at]
end

function done(summary, latency, _)
  local failed = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "bytes": %d, "failed": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, summary.bytes,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout,
    latency:percentile(50), latency:percentile(99)))
end

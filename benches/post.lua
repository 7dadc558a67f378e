-- wrk: posts the lines of a file in turn as JSON bodies, and reports one line of JSON at the end.
--   wrk ... -s post.lua URL -- BODIES_FILE
local bodies, position = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    bodies[#bodies + 1] = wrk.format("POST", nil, { ["content-type"] = "application/json" }, line)
  end
end

function request()
  position = position % #bodies + 1
  return bodies[position]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"bad_status":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.status, e.connect + e.read + e.write + e.timeout))
end

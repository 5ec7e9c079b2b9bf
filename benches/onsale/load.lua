-- What wrk sends. Arguments: file of values (one a line), method, path, header that carries the value, what stands before
-- it in the header, pause between requests of a connection (ms, drawn evenly from 0 to twice as much; 0 for none).
--
-- Each request carries the next value of the file; past its end it begins again. What follows in a line after a tab is
-- another header (`Name: value`) or, where it begins with a brace, the body. All of them are put together before anything is
-- measured. The last line of the output is for load.rs: the counts, the errors by kind, and latencies in
-- microseconds.

local requests = {}
local sent = 0

function init(arguments)
  local path, method, target, header, prefix, pause = unpack(arguments)
  for line in io.lines(path) do
    local headers, body = {}, nil
    for part in line:gmatch('[^\t]+') do
      if part:sub(1, 1) == '{' then
        body = part
      elseif next(headers) then
        local name, value = part:match('^(.-): (.*)$')
        headers[name] = value
      else
        headers[header] = prefix .. part
      end
    end
    requests[#requests + 1] = wrk.format(method, target, headers, body)
  end
  pause = tonumber(pause)
  if pause > 0 then
    delay = function() return math.random(0, 2 * pause) end
  end
end

function request()
  sent = sent + 1
  if sent > #requests then sent = 1 end
  return requests[sent]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('RESULT %d %d %d %d %d %d %d %d %d\n', summary.requests, summary.duration,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status,
    latency:percentile(50), latency:percentile(99)))
end

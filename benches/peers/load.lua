-- wrk's requests: one, or with TOKENS those of a file: AGAIN and again, or each once, and then no more. Where THINK_MS is given
-- each connection rests after each answer, for random times of that mean, so that requests come at a rate of their own and none
-- waits for another one's answer. Tells the whole histogram of latencies.
local tokens, used = {}, 0
if os.getenv("TOKENS") then
  for line in io.lines(os.getenv("TOKENS")) do tokens[#tokens + 1] = line end
end

local path = os.getenv("TARGET")
local method = os.getenv("METHOD") or "GET"
local body = os.getenv("BODY_BYTES") and string.rep("a", tonumber(os.getenv("BODY_BYTES")))
local again = os.getenv("AGAIN")
local think = tonumber(os.getenv("THINK_MS"))

local function formed(token)
  return wrk.format(method, path, { Authorization = token and "Bearer " .. token, ["X-Large"] = os.getenv("LARGE") }, body)
end
local one

function request()
  if #tokens == 0 then
    one = one or formed(os.getenv("TOKEN"))
    return one
  end
  used = used + 1
  if used > #tokens then
    if again then used = 1 else wrk.thread:stop() end
  end
  return formed(tokens[math.min(used, #tokens)])
end

if think then
  function init() math.randomseed(os.time()) end
  function delay() return math.floor(-think * math.log(1 - math.random()) + 0.5) end
end

function done(_, latency)
  for i = 1, #latency do
    local us, count = latency(i)
    if us then io.write("latency ", us, " ", count, "\n") end
  end
end

-- wrk's requests: one, or, with TOKENS, a token of its own for each. Where they do not last nothing was measured.
local tokens, used = {}, 0
if os.getenv("TOKENS") then
  for line in io.lines(os.getenv("TOKENS")) do tokens[#tokens + 1] = line end
end

local path = os.getenv("TARGET")
local method = os.getenv("METHOD") or "GET"
local body = os.getenv("BODY_BYTES") and string.rep("a", tonumber(os.getenv("BODY_BYTES")))
local one = os.getenv("TOKEN")

function request()
  local token = one
  if #tokens > 0 then
    used = used + 1
    if used > #tokens then
      io.stderr:write("more --tokens are needed\n")
      os.exit(3)
    end
    token = tokens[used]
  end
  return wrk.format(method, path, { Authorization = token and "Bearer " .. token, ["X-Large"] = os.getenv("LARGE") }, body)
end

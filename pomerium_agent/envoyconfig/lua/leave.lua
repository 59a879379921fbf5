-- Last before the upstream: what only concerns us is taken off the request. Skipped where filters.py sees by the
-- headers that there is nothing of ours.

-- One Cookie line without the cookie `name`. A second line may have been joined to the first with a comma.
local function without(line, name)
  local kept, position, dropped = {}, 1, false
  while position <= #line do
    local stop = line:find("[;,]", position) or #line + 1
    local pair = line:sub(position, stop - 1)
    if pair:match("^%s*([^=%s]*)") == name and pair:find("=", 1, true) then
      dropped = true
      if #kept > 0 then kept[#kept] = kept[#kept]:gsub("[;,]$", "") .. line:sub(stop, stop) end
    else
      kept[#kept + 1] = line:sub(position, stop)
    end
    position = stop + 1
  end
  if not dropped then return line end
  return (table.concat(kept):gsub("^[%s;,]+", ""):gsub("[%s;,]+$", ""))
end

local function clean_cookies(headers, name)
  local count = headers:getNumValues("cookie")
  local lines, changed = {}, false
  for index = 0, count - 1 do
    local line = headers:getAtIndex("cookie", index)
    local cleaned = line:find(name, 1, true) and without(line, name) or line
    if cleaned ~= line then changed = true end
    if cleaned ~= "" then lines[#lines + 1] = cleaned end
  end
  if not changed then return end
  headers:remove("cookie")
  for _, line in ipairs(lines) do headers:add("cookie", line) end
end

function envoy_on_request(handle)
  local headers, told = handle:headers(), handle:metadata()
  local cookie = told:get("remove_pomerium_cookie")
  if cookie then clean_cookies(headers, cookie) end
  if told:get("remove_pomerium_authorization") then
    local authorization = headers:get("authorization")
    if authorization and (authorization:sub(1, 9) == "Pomerium "
        or (authorization:sub(1, 7):lower() == "bearer " and authorization:sub(8, 16) == "Pomerium-")) then
      headers:remove("authorization")
    end
    headers:remove("x-pomerium-authorization")
  end
end

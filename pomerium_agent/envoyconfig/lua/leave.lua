-- Last before the upstream: what only concerns us, or would harm what we say, is taken off the request. Skipped where filters.py sees by the
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

local function is_ours(credential)
  return credential:sub(1, 9) == "Pomerium "
    or (credential:sub(1, 7):lower() == "bearer " and credential:sub(8, 16) == "Pomerium-")
end

-- Several lines of it are joined with commas, by Envoy if not by the client.
local function clean_authorization(headers)
  local kept, dropped = {}, false
  for piece in (headers:get("authorization") or ""):gmatch("[^,]+") do
    if is_ours(piece:match("^%s*(.*)$")) then dropped = true else kept[#kept + 1] = piece end
  end
  if not dropped then return end
  if #kept > 0 then headers:replace("authorization", table.concat(kept, ",")) else headers:remove("authorization") end
end

-- The path without the session in its query, however its name is spelled.
local function clean_query(headers)
  local path = headers:get(":path") or ""
  local mark = path:find("?", 1, true)
  if not mark then return end
  local kept, dropped = {}, false
  for pair in (path:sub(mark + 1) .. "&"):gmatch("(.-)&") do
    local name = pair:match("^[^=]*"):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
    if name == "pomerium_session" then dropped = true else kept[#kept + 1] = pair end
  end
  if not dropped then return end
  headers:replace(":path", path:sub(1, #kept > 0 and mark or mark - 1) .. table.concat(kept, "&"))
end

function envoy_on_request(handle)
  local headers, told = handle:headers(), handle:metadata()
  local cookie = told:get("remove_pomerium_cookie")
  if cookie then clean_cookies(headers, cookie) end
  if told:get("remove_pomerium_authorization") then
    clean_authorization(headers)
    clean_query(headers)
    headers:remove("x-pomerium-authorization")
  end
  -- A client may name headers here that a proxy on the way would then take off, those among them that say who it is.
  -- Envoy passes this on when a connection is upgraded (A-19, A-26).
  if headers:get("connection") then headers:replace("connection", "Upgrade") end
end

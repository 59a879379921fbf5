-- On routes to Kubernetes, after ext_authz: the groups of a user, each a line of its own, since ext_authz can only
-- say one line (authorize 16).

local GROUPS = "x-pomerium-impersonate-groups"

local function byte(hex) return string.char(tonumber(hex, 16)) end

function envoy_on_request(handle)
  local headers = handle:headers()
  local joined = headers:get(GROUPS)
  headers:remove(GROUPS)
  for quoted in (joined or ""):gmatch("[^,]+") do
    local group = quoted:gsub("%%(%x%x)", byte)
    -- What is no header value, or would read as another group once blanks are trimmed.
    if not group:find("[%z\1-\31\127]") and not group:find("^%s") and not group:find("%s$") then
      headers:add("impersonate-group", group)
    end
  end
end

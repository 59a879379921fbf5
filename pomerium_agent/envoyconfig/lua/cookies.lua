-- Several Cookie lines would be joined with a comma for the authorization service, and no cookie ends there (A-4).
-- Skipped where filters.py sees no comma.

function envoy_on_request(handle)
  local headers = handle:headers()
  local lines = headers:getNumValues("cookie")
  if lines > 1 then
    local all = {}
    for i = 0, lines - 1 do all[i + 1] = headers:getAtIndex("cookie", i) end
    headers:replace("cookie", table.concat(all, "; "))
  end
end

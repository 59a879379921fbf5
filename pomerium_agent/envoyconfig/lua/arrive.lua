-- First of all filters: what this client wants to read when Envoy answers by itself, and, on routes to
-- Kubernetes, nothing that pretends to be somebody. HTML is the default and is not written down.

local KINDS = {
  ["text/html"] = "html", ["text/*"] = "html", ["text/plain"] = "plain",
  ["application/json"] = "json", ["application/*"] = "json", ["*/*"] = "html",
}

local function reply_type(headers)
  local content_type = headers:get("content-type")
  if content_type and content_type:sub(1, 16):lower() == "application/grpc" then return "grpc" end
  local accept = headers:get("accept")
  if not accept then return "html" end
  local best, best_quality = "html", 0
  for range in accept:gmatch("[^,]+") do
    local kind = KINDS[(range:match("^%s*([^%s;]+)") or ""):lower()]
    local quality = tonumber(range:match(";%s*[qQ]%s*=%s*([%d.]+)") or "1") or 0
    if kind and quality > best_quality then best, best_quality = kind, quality end
  end
  return best
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local kind = reply_type(headers)
  if kind ~= "html" then
    handle:streamInfo():dynamicMetadata():set("envoy.filters.http.lua", "pomerium_local_reply_type", kind)
  end
  -- Several Cookie lines would be joined with a comma for the authorization service, and no cookie ends there (A-4).
  local lines = headers:getNumValues("cookie")
  if lines > 1 then
    local all = {}
    for i = 0, lines - 1 do all[i + 1] = headers:getAtIndex("cookie", i) end
    headers:replace("cookie", table.concat(all, "; "))
  end
  if handle:metadata():get("remove_impersonate_headers") then
    local pretended = {}
    for name, _ in pairs(headers) do
      if name == "impersonate-user" or name == "impersonate-group" or name == "impersonate-uid"
          or name:sub(1, 18) == "impersonate-extra-" then
        pretended[#pretended + 1] = name
      end
    end
    for _, name in ipairs(pretended) do headers:remove(name) end
  end
end

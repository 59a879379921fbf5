-- First of all filters: what this client wants to read when Envoy answers by itself. HTML is the default and is not
-- written down, so this is skipped where filters.py sees by the headers that it would be HTML.

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
end

-- On routes that ask for it: response headers are rewritten on the way back.

function envoy_on_response(handle)
  local rewrites = handle:metadata():get("rewrite_response_headers")
  if not rewrites then return end
  local headers = handle:headers()
  for _, rewrite in ipairs(rewrites) do
    local values, changed = {}, false
    for index = 0, headers:getNumValues(rewrite.header) - 1 do
      local value = headers:getAtIndex(rewrite.header, index)
      if not rewrite.prefix then
        values[#values + 1], changed = rewrite.value, true
      elseif value:sub(1, #rewrite.prefix) == rewrite.prefix then
        values[#values + 1], changed = rewrite.value .. value:sub(#rewrite.prefix + 1), true
      else
        values[#values + 1] = value
      end
    end
    if changed then
      headers:remove(rewrite.header)
      for _, value in ipairs(values) do headers:add(rewrite.header, value) end
    end
  end
end

-- On routes to Kubernetes: nothing that pretends to be somebody. Before ext_authz, which says who it is.

function envoy_on_request(handle)
  local headers = handle:headers()
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

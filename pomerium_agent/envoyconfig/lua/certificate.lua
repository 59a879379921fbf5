-- Before ext_authz, where any authority for client certificates is configured: what the visitor presented in the
-- handshake, trusted or not, for the agent to judge (authorize 11). Metadata is nothing that a visitor can send.

local NAMESPACE = "com.pomerium.client-certificate-info"

function envoy_on_request(handle)
  local info = handle:streamInfo()
  local tls = info:downstreamSslConnection()
  local presented = tls ~= nil and tls:peerCertificatePresented()
  info:dynamicMetadata():set(NAMESPACE, "presented", presented)
  if presented then
    info:dynamicMetadata():set(NAMESPACE, "chain", tls:urlEncodedPemEncodedPeerCertificateChain())
  end
end

"""Fields of a route that say who may use it and as whom, and what only names it."""

from pomerium_agent.config.reference.field import Beside, Topic, ignored, works

TOKEN = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"  # noqa: S105  # an example
COMPUTED = "Computed by the server and stripped before use (R-1)."
REFERENCE = "Resolved into another field for entity records, before a route is checked (R-3)."
CLOUD = "Provenance and user interface of the control plane."
STAFF = {"id": "staff", "source_ppl": "allow:\n  and:\n    - domain:\n        is: example.com\n"}

ACCESS = Topic(
    "Who may use it",
    (
        works(
            "allow_public_unauthenticated_access",
            "P0",
            "Policy `accept`: everybody, without logging in.",
            True,
            broken=Beside(True, {"allowed_users": ["ada@example.com"]}),
        ),
        works(
            "allow_any_authenticated_user",
            "P0",
            "Policy `authenticated_user`.",
            True,
            broken=Beside(True, {"allowed_domains": ["example.com"]}),
        ),
        works(
            "allowed_users",
            "P0",
            "Policy `user` or `email`: a user id or an address.",
            ["ada@example.com"],
            broken=Beside(["ada@example.com"], {"allow_any_authenticated_user": True}),
        ),
        works(
            "allowed_domains",
            "P0",
            "Policy `domain`: of the address.",
            ["example.com"],
            broken=Beside(["example.com"], {"allow_public_unauthenticated_access": True}),
        ),
        works("allowed_idp_claims", "P0", "Policy `claim/NAME`: any of the values.", {"groups": ["staff"]}),
        works(
            "policies",
            "P0",
            "Policies in PPL; one that denies wins. One that cannot be read closes the route.",
            [STAFF],
            broken=[{"source_ppl": "allow: ["}],
        ),
        works("cors_allow_preflight", "P0", "Policy `cors_preflight`: `OPTIONS` of a preflight needs no login.", True),
        works("show_error_details", "P1", "The page of a denial explains what the policy wanted.", True),
        works(
            "tls_downstream_client_ca",
            "P1",
            "Client certificates of this route are of this authority, not of the settings' one.",
            "${chain:clients.example.com}",
            broken="nonsense",
        ),
        works(
            "tls_downstream_client_ca_file",
            "P1",
            "The same from a file of the replica; wins over it.",
            "/etc/pomerium/ca.pem",
            broken="/nowhere/ca.pem",
        ),
        works(
            "tls_downstream_client_ca_key_pair_id",
            "P1",
            "The same from a key pair; resolved for entity records. One that is not resolved lets nobody in.",
            Beside("clients", {"tls_downstream_client_ca": "${chain:clients.example.com}"}),
            broken="nowhere",
        ),
        works(
            "rate_limit",
            "-",
            "Requests beyond it are answered 429 with `Retry-After`; a field of ours. A bucket holds `burst` requests "
            "(by default as many as `requests`), and `requests` more fall into it in every `per` (by default 1s). "
            "`key` says who shares a bucket: `client_address`, the default, as `xff_num_trusted_hops` makes it out "
            "(of IPv6 the first 64 bits); `user`; or `route`, everybody together. Each replica counts for itself, "
            "and from zero after a change of routes. Counted by Envoy as "
            "`route_limit.ID.http_local_rate_limit.rate_limited`.",
            {"requests": 100, "per": "60s", "burst": 20, "key": "RATE_LIMIT_KEY_USER"},
            default="no limit",
            broken={"requests": 0, "per": "60s"},
        ),
        *ignored(
            "Only ever written by the reference, which does not read it back.", "P0", ppl_policies=[{"raw": "e30="}]
        ),
        *ignored(REFERENCE, "P0", policy_ids=["staff"]),
        *ignored("The reference ignores it too.", "P2", jwt_groups_filter_infer_from_ppl=True),
    ),
)
LOGIN = Topic(
    "Logging in, and what the upstream learns",
    (
        works("idp_client_id", "P1", "Logs in by this OAuth client of the provider.", "reports"),
        works("idp_client_secret", "P1", "Its secret.", "s3cret"),
        works(
            "idp_access_token_allowed_audiences",
            "P1",
            "Audiences of access tokens that are taken as bearers here, from among those that the settings allow.",
            ["api://reports"],
            default="all that the settings allow",
        ),
        works(
            "bearer_token_format",
            "P1",
            "What a bearer token is taken for.",
            "BEARER_TOKEN_FORMAT_IDP_ACCESS_TOKEN",
            default="the settings'",
            broken=9,
        ),
        works(
            "identity_providers",
            "P1",
            "Providers of the settings whose JWTs are taken as bearers.",
            Beside(["ci"], {"bearer_token_format": "BEARER_TOKEN_FORMAT_JWT"}),
            broken=["nobody"],
        ),
        works(
            "depends_on",
            "P1",
            "Up to 5 hosts that are logged in to along with this one.",
            ["api.example.com"],
            broken=["ftp/x"],
        ),
        works(
            "jwt_issuer_format",
            "P1",
            "`iss` of the assertion: host, or URL.",
            "IssuerURI",
            default="the settings'",
            broken=9,
        ),
        works("jwt_groups_filter", "P1", "Groups that are kept in the assertion, besides the settings' ones.", ["ops"]),
    ),
)
PLATFORMS = Topic(
    "Kubernetes and Google",
    (
        works(
            "kubernetes_service_account_token",
            "P1",
            "`Authorization` of the API server, with `Impersonate-User` and `-Group` of who is logged in.",
            TOKEN,
            broken="a b",
        ),
        works(
            "kubernetes_service_account_token_file",
            "P1",
            "The same from a file of the replica; without it nobody is let in.",
            "/etc/pomerium/token",
            broken="/nowhere/token",
        ),
        works(
            "kubernetes_service_account_token_key_pair_id",
            "P1",
            "The same from the key of a key pair; resolved for entity records.",
            Beside("cluster", {"kubernetes_service_account_token": TOKEN}),
            broken="nowhere",
        ),
        works(
            "enable_google_cloud_serverless_authentication",
            "P1",
            "`Authorization` with an identity token of the service account; the upstream is looked up by IPv4.",
            Beside(True, {"to": ["https://service.example.com"]}),
            broken=Beside(True, {"to": ["unix:///run/app.sock"]}),
        ),
    ),
)
NAMES = Topic(
    "Its names",
    (
        works("id", "P0", "Identity over changes; name of the cluster.", "app", default="a hash of what it does"),
        works(
            "tls_downstream_server_name",
            "P1",
            "A further host, which has the agent's own pages and no routes.",
            "inside.example.com",
            broken="https://inside",
        ),
        works("name", "P0", "Name in the portal and in messages; `alt_stat_name`.", "Application"),
        works("stat_name", "P1", "`alt_stat_name`: name in metrics and logs.", "app", default="`name`"),
        works("description", "P1", "Text in the portal.", "Dashboards of everything that runs"),
        works("logo_url", "P1", "Picture in the portal.", "https://app.example.com/logo.svg"),
        *ignored(CLOUD, "-", namespace_id="n", originator_id="o"),
        *ignored(REFERENCE, "P0", tls_custom_ca_key_pair_id="ca", tls_client_key_pair_id="client"),
        *ignored(
            COMPUTED,
            "-",
            namespace_name="n",
            created_at="2026-01-01T00:00:00Z",
            modified_at="2026-01-01T00:00:00Z",
            enforced_policies=[{"id": "p"}],
            assigned_policies=[{"id": "p"}],
        ),
    ),
)

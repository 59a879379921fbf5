"""Settings of logging in and of what upstreams learn."""

from pomerium_agent.config.reference.field import Topic, ignored, works

EXAMPLE = "A" * 43 + "="  # 32 bytes in base64
CI = {"issuer": "https://ci.example.com", "audiences": ["pomerium"]}

LOGIN = Topic(
    "Logging in",
    (
        works(
            "authenticate_service_url",
            "P0",
            "Where visitors log in; a host of ours gets the login pages.",
            "https://authenticate.example.com",
            default="the hosted service",
            broken="ftp://authenticate",
        ),
        works(
            "authenticate_internal_service_url",
            "P2",
            "The same, as replicas reach it.",
            "https://authenticate.internal",
            default="`authenticate_service_url`",
            broken="nowhere",
        ),
        works("idp_provider", "P0", "Kind of the identity provider.", "oidc", default="none", broken="myspace"),
        works("idp_provider_url", "P0", "Its issuer.", "https://login.example.com", broken="ftp://login"),
        works("idp_client_id", "P0", "Our OAuth client there.", "pomerium"),
        works("idp_client_secret", "P0", "Its secret.", "s3cret"),
        works("scopes", "P0", "Scopes that are asked for.", ["openid", "email"], default="the provider's own"),
        works("request_params", "P1", "Parameters of the request to log in.", {"prompt": "select_account"}),
        works(
            "idp_access_token_allowed_audiences",
            "P1",
            "Audiences of access tokens that are taken as bearers.",
            ["api://pomerium"],
        ),
        works(
            "bearer_token_format",
            "P1",
            "What a bearer token is taken for.",
            "BEARER_TOKEN_FORMAT_IDP_ACCESS_TOKEN",
            default="default",
            broken=9,
        ),
        works(
            "identity_providers",
            "P1",
            "Other issuers whose JWTs routes may take as bearers.",
            {"ci": CI},
            default="none",
            broken={"ci": {**CI, "issuer": "http://ci.example.com"}},
        ),
        works(
            "cookie_name",
            "P0",
            "Cookie of the session; never sent to an upstream.",
            "_mine",
            default="`_pomerium`",
            broken="a b",
        ),
        works("cookie_domain", "P0", "`Domain` of it.", "example.com", default="the host that sets it", broken="a b"),
        works("cookie_http_only", "P0", "`HttpOnly` of it.", False, default="`true`"),
        works("cookie_expire", "P0", "How long a session lasts.", "8h", default="14h", broken="0s"),
        works("cookie_same_site", "P0", "`SameSite` of it.", "strict", default="not said", broken="sideways"),
        works(
            "signout_redirect_url",
            "P0",
            "Where signing out ends.",
            "https://example.com/bye",
            default="a page of the agent's",
            broken="ftp://bye",
        ),
        works(
            "programmatic_redirect_domain_whitelist",
            "P1",
            "Hosts that programs may be sent back to after logging in.",
            ["localhost", "tools.example.com"],
            default="localhost",
            broken=["a b"],
        ),
        works(
            "login_rate_limit",
            "-",
            "How many requests of one address the pages of logging in and out answer, on all hosts together; a field "
            "of ours, as `rate_limit` of a route is. `requests: 0` switches it off. Behind a load balancer everybody "
            "has its address, unless `xff_num_trusted_hops` or `use_proxy_protocol` say otherwise. Each replica counts "
            "for itself. Counted by Envoy as `login_limit.http_local_rate_limit.rate_limited`.",
            {"requests": 600, "per": "60s", "burst": 100},
            default="1200 in 60s, which is 400 logins at once",
            broken={"requests": 10, "per": "0.001s"},
        ),
        works(
            "console_login_keys",
            "-",
            "Public keys of a console that logs people in; a field of ours.",
            ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
            broken=["short"],
        ),
        *ignored(
            "What it would protect is protected by keys derived from the shared secret.",
            "P0",
            cookie_secret=EXAMPLE,
        ),
    ),
    about="Who logs people in, what is asked of that provider, and the cookie that remembers them.",
)
IDENTITY = Topic(
    "What upstreams learn",
    (
        works("pass_identity_headers", "P0", "Default of the routes' `pass_identity_headers`.", True),
        works(
            "jwt_claims_headers",
            "P0",
            "Headers with claims, where identity is passed; elsewhere they are stripped.",
            {"X-Email": "email"},
            broken={"a b": "email"},
        ),
        works(
            "signing_key",
            "P0",
            "Key of the assertion. PEM, or base64 of PEM; EC P-256 or RSA.",
            "${key:signing}",
            default="derived",
            broken="nonsense",
        ),
        works("jwt_groups_filter", "P1", "Groups that are kept in the assertion.", ["staff"], default="all"),
        works(
            "jwt_issuer_format", "P1", "`iss` of the assertion: host, or URL.", "IssuerURI", default="host", broken=9
        ),
        works(
            "google_cloud_serverless_authentication_service_account",
            "P1",
            "Key file of the account that identity tokens are asked for, JSON or base64 of it.",
            '{"client_email": "proxy@example.com", "private_key": "${pem:rsa}"}',
            default="the metadata server",
            broken="nonsense",
        ),
        *ignored("The reference ignores it too.", "P2", jwt_groups_filter_infer_from_ppl=True),
    ),
    about="What an upstream is told about the person whose request it answers.",
)

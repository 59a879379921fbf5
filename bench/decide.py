"""What a policy costs by its size: evaluated in this process, nothing around it."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address

from bench.load import median
from bench.report import Column, Section
from pomerium_agent.policy import RouteRules, build_route_policy, evaluate
from pomerium_agent.policy.facts import Facts, Identity, Request

SIZES = (1, 5, 10, 20)
AT_A_TIME = 2000
GROUP = "engineers"

# Each is true of the bench's visitors, so that `and` has to look at all of them; the mix is what policies are made of.
CRITERIA = (
    f"groups: {{has: {GROUP}}}",
    "domain: {is: bench.test}",
    "email: {ends_with: '@bench.test'}",
    "http_method: {in: [GET, HEAD]}",
    "claim/department: research",
    "user: {starts_with: u}",
    "http_path: {starts_with: /}",
    "authenticated_user: true",
    "source_ip: [10.0.0.0/8, 127.0.0.0/8]",
    "email: {not: nobody@bench.test}",
)


def policy_of(criteria: int) -> str:
    """PPL that lets the visitors of the bench in."""
    chosen = (CRITERIA[number % len(CRITERIA)] for number in range(criteria))
    return f"allow: {{and: [{', '.join(f'{{{each}}}' for each in chosen)}]}}"


def bench_decide(rounds: int, say: Callable[[str], None]) -> Section:
    """Rounds are taken in turn."""
    facts = Facts(
        Request(host="app.bench.test", path="/a/b", raw_path="/a/b", ip=ip_address("127.0.0.1")),
        Identity(
            present=True,
            session_id="s1",
            user_id="u1",
            email="u1@bench.test",
            claims={"department": ("research",)},
            groups=("everybody", GROUP),
        ),
        now=datetime.now(UTC),
    )
    policies = {}
    for size in SIZES:
        policy, complaints = build_route_policy(RouteRules(policies=(policy_of(size),)), source="bench")
        if complaints or not evaluate(policy, facts).allow.value:
            raise ValueError(f"the policy of {size} criteria lets nobody in: {complaints}")
        policies[size] = policy
    costs: Mapping[int, list[float]] = {size: [] for size in SIZES}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for size, policy in policies.items():
            began = time.process_time()
            for _ in range(AT_A_TIME):
                evaluate(policy, facts)
            costs[size].append(1e6 * (time.process_time() - began) / AT_A_TIME)
    found = {size: median(costs[size]) for size in SIZES}
    return Section(
        name="decide",
        title="one policy evaluated, by its size; all criteria are true, so all of them are looked at",
        columns=(Column("criteria", "d"), Column("µs"), Column("µs/criterion", ".2f"), Column("times one", ".1f")),
        rows=[[size, cost, cost / size, cost / found[SIZES[0]]] for size, cost in found.items()],
        ratios={f"{size} criteria/one": found[size] / found[SIZES[0]] for size in SIZES[1:]},
    )

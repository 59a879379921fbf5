"""Pomerium Policy Language: parse it, decide by it, say why. Pure: no I/O, no clock (P-28).

Text → `parse_policy` → `compile_policy` → Policy; a route's → `build_route_policy` → `evaluate` → `outcome`.
"""

from pomerium_agent.policy.change import Change
from pomerium_agent.policy.compile import Compiled, Policy, compile_policy
from pomerium_agent.policy.complaints import Complaint
from pomerium_agent.policy.dialect import Dialect
from pomerium_agent.policy.document import Document, parse_policy
from pomerium_agent.policy.explain import Explanation, explain
from pomerium_agent.policy.legacy import RouteRules, SubPolicy
from pomerium_agent.policy.results import Kind, Outcome, Result, Trace, Verdict, outcome
from pomerium_agent.policy.route import PolicyCache, RoutePolicy, build_route_policy, evaluate, judge_all

__all__ = [
    "Change",
    "Compiled",
    "Complaint",
    "Dialect",
    "Document",
    "Explanation",
    "Kind",
    "Outcome",
    "Policy",
    "PolicyCache",
    "Result",
    "RoutePolicy",
    "RouteRules",
    "SubPolicy",
    "Trace",
    "Verdict",
    "build_route_policy",
    "compile_policy",
    "evaluate",
    "explain",
    "judge_all",
    "outcome",
    "parse_policy",
]

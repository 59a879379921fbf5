"""Whether a route's policies can turn anybody away at all."""

from pomerium_agent.policy.compile import Policy, PreparedBlock
from pomerium_agent.policy.compiling import Needs
from pomerium_agent.policy.route import RoutePolicy


def admits_everybody(route: RoutePolicy) -> bool:
    """True when no request, whoever makes it, can be refused: something accepts all, and nothing can deny.

    Says no when in doubt. Whoever gets a yes need not ask about any single request.
    """
    if route.closed:
        return False
    policies = [script.policy for script in route.scripts]
    if not all(isinstance(policy, Policy) and not policy.deny for policy in policies):
        return False
    blocks = [block for policy in policies if isinstance(policy, Policy) for block in policy.allow]
    return any(_accepts_all(block) for block in blocks) and not any(_may_ask_to_sign_in(block) for block in blocks)


def _accepts_all(block: PreparedBlock) -> bool:
    accepting = [criterion.key == "accept" for criterion in block.criteria]
    if block.inverted or not accepting:
        return False
    return all(accepting) if block.every else any(accepting)


def _may_ask_to_sign_in(block: PreparedBlock) -> bool:
    """`not` and `nor` keep the reasons of what they flip, and `user-unauthenticated` asks for a login even beside a
    true allow (policy 3.1, 3.3)."""
    return block.inverted and any(criterion.needs is Needs.IDENTITY for criterion in block.criteria)

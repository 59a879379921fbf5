"""The filter of a query as SQL: conditions over `pomerium.records`, every value a parameter (databroker 6; D-21)."""

from collections.abc import Sequence

from pomerium_agent.databroker.filters import And, Equals, Expression, Not, Or
from pomerium_agent.databroker.index import parse_network
from pomerium_agent.errors import InvalidRequest

MAX_PARAMETERS = 10_000  # PostgreSQL's protocol counts them in 16 bits


class Conditions:
    """Collects the parameters of one statement while its conditions are written."""

    def __init__(self) -> None:
        self.parameters: list[object] = []

    def parameter(self, value: object) -> str:
        """The placeholder of a value."""
        if len(self.parameters) >= MAX_PARAMETERS:
            raise InvalidRequest(f"filter: more than {MAX_PARAMETERS} comparisons")
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def where(self, type: str, expression: Expression | None) -> str:
        """The condition for records of `type` (empty: all) for which the expression holds."""
        terms = [f"type = {self.parameter(type)}"] if type else []
        if expression is not None:
            terms.append(self._holds(expression))
        return " and ".join(terms) or "true"

    def _holds(self, expression: Expression) -> str:
        match expression:
            case Equals(path, value):
                return self._one_of(path, [value])
            case And(terms):
                return "(" + " and ".join(self._holds(term) for term in terms) + ")"
            case Or(terms):
                return self._either(terms)
            case Not(term):
                return f"({self._holds(term)}) is not true"

    def _either(self, terms: Sequence[Expression]) -> str:
        """Values of one field are compared all at once, so that a long list is one look into the index."""
        values: dict[tuple[str, ...], list[str]] = {}
        others: list[str] = []
        for term in terms:
            if isinstance(term, Equals):
                values.setdefault(term.path, []).append(term.value)
            else:
                others.append(self._holds(term))
        others += [self._one_of(path, wanted) for path, wanted in values.items()]
        return "(" + " or ".join(others) + ")" if others else "false"

    def _one_of(self, path: tuple[str, ...], values: Sequence[str]) -> str:
        if path == ("$index",):
            networks = [str(network) for value in values if (network := parse_network(value)) is not None]
            return f"index_cidr >>= any({self.parameter(networks)}::text[]::inet[])" if networks else "false"
        storable = [value for value in values if "\0" not in value]  # others are in no record
        if not storable or any("\0" in name for name in path):
            return "false"
        if path in (("id",), ("type",)):
            return f"{path[0]} = any({self.parameter(storable)}::text[])"
        names = [lower_camel_case(name) for name in path]
        field = f"jsonb_extract_path_text(data, variadic {self.parameter(names)}::text[])"
        return f"{field} = any({self.parameter(storable)}::text[])"


def lower_camel_case(name: str) -> str:
    """A proto field name as its JSON name: `user_id` is `userId`. Pure."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)

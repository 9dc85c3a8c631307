"""What tokens cost here, as decimal strings of a currency nobody names (doubleword-api 1.8, 2.9)."""

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal

import msgspec

from orchestrator.sandbox.records import Template

INPUT_PRICE = Decimal("0.0000001")
OUTPUT_PRICE = Decimal("0.0000004")
BYTES_PER_TOKEN = 4
OUTPUT_PER_INPUT = 1.1


class ModelEstimate(msgspec.Struct, frozen=True):
    model: str
    request_count: int
    estimated_input_tokens: int
    estimated_output_tokens: int
    estimated_cost: str


def cost(input_tokens: int, output_tokens: int) -> str:
    return f"{input_tokens * INPUT_PRICE + output_tokens * OUTPUT_PRICE:f}"


def estimate(templates: Iterable[Template]) -> list[ModelEstimate]:
    """Per model: a quarter of the bodies' bytes as input tokens, that times 1.1 as output tokens."""
    bodies: defaultdict[str, list[int]] = defaultdict(list)
    for template in templates:
        bodies[template.model].append(len(template.body))
    return [model_estimate(model, sizes) for model, sizes in sorted(bodies.items())]


def model_estimate(model: str, sizes: list[int]) -> ModelEstimate:
    tokens_in = sum(sizes) // BYTES_PER_TOKEN
    tokens_out = int(tokens_in * OUTPUT_PER_INPUT)
    return ModelEstimate(model, len(sizes), tokens_in, tokens_out, cost(tokens_in, tokens_out))

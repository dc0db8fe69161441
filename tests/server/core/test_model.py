from crossrank.loading import LoadedModel
from crossrank.server.core.model import Model
from tests.server.serving import ENCODER, fake


def test_tiny_and_empty_texts_do_not_make_a_model_look_slow() -> None:
    """Their time is overhead: were it counted by characters, a short request would seem to take days."""
    model = Model("m", LoadedModel(ENCODER, fake()))
    for _ in range(500):
        model.has_read(0, 0.005)
    assert model.reading_rate > 500_000
    model.has_read(1_000_000, 1.0)
    assert 500_000 < model.reading_rate < 2_000_000

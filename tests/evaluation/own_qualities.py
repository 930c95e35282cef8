"""Qualities of a user's own, as `own_qualities:NAME`."""

import torch

NOT_A_FUNCTION = 3


def confidence(model, batch):  # type: ignore[no-untyped-def]
    """(B,) how sure the model is."""
    return model(batch.images).softmax(dim=-1).amax(dim=-1)


def confidence_of_one(model, batch):  # type: ignore[no-untyped-def]
    """The same as one number, of however many images."""
    return float(confidence(model, batch).mean())


def nowhere(model, batch):  # type: ignore[no-untyped-def]
    return torch.full((len(batch.indices),), torch.nan)


def words(model, batch):  # type: ignore[no-untyped-def]
    return "good"


def nothing(model, batch):  # type: ignore[no-untyped-def]
    return None


def two(model, batch):  # type: ignore[no-untyped-def]
    return [1.0, 2.0]


def broken(model, batch):  # type: ignore[no-untyped-def]
    raise KeyError("masks")

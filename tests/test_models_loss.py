"""The loss in pieces: the same values and gradients as in one piece, over a head that is frozen."""

from __future__ import annotations

import pytest
import torch

from models import Transformer, TransformerConfig
from models.loss import _losses_and_slopes, token_losses

CONFIG = TransformerConfig(width=16, layers=1, heads=2, kv_heads=1, hidden=24, context=16)
VOCABULARY = 30


def model_with(head_learns):
    model = Transformer(CONFIG, VOCABULARY, torch.Generator().manual_seed(0))
    model.requires_grad_(head_learns)
    return model


def given(count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(count, CONFIG.width, generator=generator).to(dtype)
    return states.requires_grad_(), torch.randint(VOCABULARY, (count,), generator=generator)


def asked_of(monkeypatch, model):
    """How many states each call of the head has."""
    seen, unembed = [], model.unembed
    monkeypatch.setattr(
        model, "unembed", lambda states: (seen.append(len(states)), unembed(states))[1]
    )
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 6, 7])
def test_pieces_give_the_losses_and_gradients_of_the_whole(monkeypatch, count, dtype):
    model = model_with(head_learns=False).to(dtype)
    states, tokens = given(count, dtype)
    weights = torch.arange(1, count + 1, dtype=torch.float32)
    whole = token_losses(model, states, tokens)
    (expected,) = torch.autograd.grad(whole @ weights, states)
    seen = asked_of(monkeypatch, model)
    pieces = token_losses(model, states, tokens, at_once=3 * VOCABULARY)
    assert max(seen) == min(count, 3) and sum(seen) == count
    (got,) = torch.autograd.grad(pieces @ weights, states)
    assert pieces.dtype == torch.float32 and got.dtype == dtype
    torch.testing.assert_close(pieces, whole)
    if dtype == torch.bfloat16:  # rounded before and after the weights, in pieces and as a whole
        torch.testing.assert_close(got, expected, rtol=2**-4, atol=2**-10)
    else:
        torch.testing.assert_close(got, expected)


def test_logits_of_any_size_have_a_loss_and_a_slope():
    """Of a token far below the likeliest one, of one that is ruled out, and of the sure one."""
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, float("-inf"), 3.0], [5.0, -5e3, -5e3]])
    tokens = torch.tensor([1, 2, 0])
    expected = logits.clone().requires_grad_()
    losses = torch.nn.functional.cross_entropy(expected, tokens, reduction="none")
    (slopes,) = torch.autograd.grad(losses.sum(), expected)
    got = _losses_and_slopes(logits, tokens)
    torch.testing.assert_close(got, (losses.detach(), slopes))


def test_a_head_that_learns_is_read_whole(monkeypatch):
    model = model_with(head_learns=True)
    states, tokens = given(7)
    seen = asked_of(monkeypatch, model)
    token_losses(model, states, tokens, at_once=VOCABULARY).sum().backward()
    assert seen == [0, 7] and model.embed_tokens.weight.grad.any() and states.grad.any()


def test_states_without_gradients_are_read_in_pieces_too(monkeypatch):
    model = model_with(head_learns=False)
    states, tokens = given(7, torch.float64)
    model.double()
    whole = token_losses(model, states.detach(), tokens)
    seen = asked_of(monkeypatch, model)
    losses = token_losses(model, states.detach(), tokens, at_once=3 * VOCABULARY)
    assert seen == [0, 3, 3, 1] and losses.dtype == torch.float64 and not losses.requires_grad
    torch.testing.assert_close(losses, whole)


def test_no_learned_token_gives_no_loss():
    states, tokens = given(0)
    assert token_losses(model_with(False), states, tokens, at_once=1).shape == (0,)

"""The summary of a network: its numbers, its text, and that looking leaves no trace."""

import numpy as np
import pytest

import kitae
from kitae import nn
from kitae.nn.summary import SummaryRow
from kitae.nn.watching import watched_outputs


def network():
    return nn.Sequential(
        nn.Dense(16),
        kitae.BatchNorm(activation="relu"),
        nn.Residual(nn.Sequential(nn.Dense(16, bias=False), nn.ReLU())),
        kitae.Dropout(0.5, seed=1),
        nn.Dense(10),
    )


TABLE = """\
name      layer      output shape  parameters  trainable
--------  ---------  ------------  ----------  ---------
0         Dense      (batch, 16)        1,040  yes
1         BatchNorm  (batch, 16)           32  yes
2.body.0  Dense      (batch, 16)          256  yes
2.body.1  ReLU       (batch, 16)            0
3         Dropout    (batch, 16)            0
4         Dense      (batch, 10)          170  yes

parameters: 1,498 (trainable 1,498, frozen 0); buffers: 34; 6,136 bytes"""


def test_a_table_with_totals():
    # 64 * 16 + 16; 2 * 16; 16 * 16; 16 * 10 + 10; buffers 2 * 16 floats and two 8-byte numbers of dropout:
    # 4 * (1498 + 32) + 16 bytes.
    model = network()
    found = model.summary((64,))
    assert str(found) == repr(found) == TABLE
    assert (found.parameters, found.trainable, found.frozen, found.buffers) == (1498, 1498, 0, 34)
    assert found.rows[0] == SummaryRow("0", "Dense", (None, 16), 1040, True)


def test_prints_nothing_and_knows_the_latest_input(capsys):
    model = network()
    unknown = model.summary()
    assert model.input_shape is None
    assert unknown.parameters == 0
    assert {row.output_shape for row in unknown.rows} == {None}
    assert "?" in str(unknown)
    model.forward(np.ones((7, 64), np.float32))
    assert model.input_shape == (64,)
    assert str(model.summary()) == TABLE
    assert capsys.readouterr().out == ""


def test_frozen_and_shared():
    first, second, norm = nn.Dense(4, inputs=4), nn.Dense(4, inputs=4), kitae.BatchNorm(4, trainable=False)
    second.params["W"] = first.params["W"]
    found = nn.Sequential(first, norm, second).summary((4,))
    assert [(row.parameters, row.trainable) for row in found.rows] == [(20, True), (8, False), (4, True)]
    assert (found.parameters, found.trainable, found.frozen) == (32, 24, 8)


def test_state_is_left_alone():
    model = network()
    model.forward(np.ones((7, 64), np.float32))
    before = {name: np.copy(array) for name, array in {**model.params, **model.buffers}.items()}
    model.summary()
    after = {**model.params, **model.buffers}
    assert list(before) == list(after)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    assert all("forward" not in vars(layer) for layer in model.layers)


def test_watching_ends_after_an_error():
    layer = nn.Tanh()
    with pytest.raises(TypeError, match=r"nn\.Tanh\.forward"), watched_outputs(layer, lambda *_: None):
        layer.forward([1.0])
    assert "forward" not in vars(layer)


def test_bad_input_shape():
    with pytest.raises(TypeError, match=r"kitae\.nn\.summary: input_shape: expected an integer .* got 'a'"):
        network().summary(("a",))

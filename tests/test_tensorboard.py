"""TensorBoard's event files, read back: framing with its checksums, tags, steps, values."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kitae
from kitae import nn
from kitae.train import TensorBoard, Trainer

pytest.importorskip("tensorboardX")


def crc32c(data: bytes) -> int:
    """CRC-32C (polynomial 0x1EDC6F41, reflected), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_crc_of_the_standard_vector() -> None:
    """RFC 3720, B.4 and the usual check value."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


def values(folder: Path) -> list[tuple[str, int, Any]]:
    """(tag, step, value) of every event in a folder: TFRecord frames of length, its CRC, data, its CRC."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            header = data[place : place + 8]
            (length,) = struct.unpack("<Q", header)
            (header_crc,) = struct.unpack("<I", data[place + 8 : place + 12])
            body = data[place + 12 : place + 12 + length]
            (body_crc,) = struct.unpack("<I", data[place + 12 + length : place + 16 + length])
            assert header_crc == masked(header)
            assert body_crc == masked(body)
            event = Event.FromString(body)
            found += [(value.tag, event.step, value) for value in event.summary.value]
            place += 16 + length
    return found


def fit(callback: TensorBoard) -> Trainer:
    kitae.seed(2)
    rng = np.random.default_rng(2)
    x, t = rng.standard_normal((32, 4)).astype(np.float32), rng.integers(0, 3, 32)
    model = nn.Sequential(nn.Dense(5), nn.ReLU(), nn.Dense(3))
    trainer = Trainer(model, nn.SoftmaxCrossEntropy(), kitae.SGD(lr=0.1), metrics=["accuracy"], callbacks=[callback])
    trainer.fit(x, t, batch_size=8, epochs=3, validation_data=(x, t), verbose=0)
    return trainer


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(step, value.simple_value) for name, step, value in values(folder) if name == tag]


def test_scalars_are_the_historys(tmp_path: Path) -> None:
    trainer = fit(TensorBoard(tmp_path))
    history = trainer.history.history
    for tag, key, part in (
        ("epoch_loss", "loss", "train"),
        ("epoch_accuracy", "accuracy", "train"),
        ("epoch_learning_rate", "lr", "train"),
        ("epoch_loss", "val_loss", "validation"),
        ("epoch_accuracy", "val_accuracy", "validation"),
    ):
        expected = [(epoch, float(np.float32(value))) for epoch, value in enumerate(history[key])]  # stored in float32
        assert scalars(tmp_path / part, tag) == expected, tag
    assert [step for step, _ in scalars(tmp_path / "validation", "evaluation_loss_vs_iterations")] == [4, 8, 12]


def test_batches(tmp_path: Path) -> None:
    fit(TensorBoard(tmp_path, update_freq=2))
    assert [step for step, _ in scalars(tmp_path / "train", "batch_loss")] == [2, 4, 6, 8, 10, 12]


def test_histograms(tmp_path: Path) -> None:
    trainer = fit(TensorBoard(tmp_path, histograms_every=2))
    found = {(tag, step): value.histo for tag, step, value in values(tmp_path / "train") if value.HasField("histo")}
    tags = ["0/W", "0/W/gradient", "0/b", "0/b/gradient", "2/W", "2/W/gradient", "2/b", "2/b/gradient"]
    assert sorted(found) == [(tag, step) for tag in tags for step in (0, 2)]
    last, weights = found["0/W", 2], trainer.model.params["0.W"]
    assert (last.num, last.min, last.max) == (20, weights.min(), weights.max())
    sizes = float(np.abs(weights).sum())
    assert last.sum == pytest.approx(float(weights.sum(dtype=np.float64)), abs=20 * 2.0**-24 * sizes)  # in float32
    assert sum(last.bucket) == 20


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kitae.train.TensorBoard: histograms_every: expected an integer in \[1"):
        TensorBoard(tmp_path, histograms_every=0)
    with pytest.raises(ValueError, match="update_freq: expected one of 'epoch', 'batch', got 'step'"):
        TensorBoard(tmp_path, update_freq="step")
    with pytest.raises(TypeError, match="logdir: expected a path"):
        TensorBoard(3)  # type: ignore[arg-type]


def test_missing_package_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r'pip install "kitae\[train\]"'):
        TensorBoard(tmp_path)

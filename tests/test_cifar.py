"""The reader of CIFAR-10's binary version: records as they were written, and a DataError for everything else."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitae import data

RECORD = 3073


@pytest.fixture
def records(rng):
    records = rng.integers(0, 256, (12, RECORD), dtype=np.uint8)
    records[:, 0] = np.arange(12) % 10
    return records


@pytest.fixture
def folder(tmp_path, records):
    for i, name in enumerate([f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]):
        (tmp_path / name).write_bytes(records[2 * i : 2 * i + 2].tobytes())
    (tmp_path / "batches.meta.txt").write_text("airplane\n")
    return tmp_path


def test_a_record_is_label_then_red_green_blue_row_by_row(tmp_path):
    """The dataset's page: the first 1024 bytes are the red values, 32 of them the first row."""
    content = bytearray(RECORD)
    content[0], content[1 + 33], content[1 + 1024], content[1 + 2048 + 31] = 7, 10, 20, 30
    (tmp_path / "one.bin").write_bytes(content)
    images, labels = data.read_cifar10(tmp_path / "one.bin")
    assert labels.tolist() == [7]
    assert labels.dtype == np.int64
    assert (images.shape, images.dtype, images.sum()) == ((1, 3, 32, 32), np.uint8, 60)
    assert (images[0, 0, 1, 1], images[0, 1, 0, 0], images[0, 2, 0, 31]) == (10, 20, 30)


def test_folder(folder, records):
    images, labels = data.read_cifar10(folder)
    np.testing.assert_array_equal(images.reshape(10, -1), records[:10, 1:])
    np.testing.assert_array_equal(labels, records[:10, 0])
    images, labels = data.read_cifar10(folder, test=True)
    np.testing.assert_array_equal(images.reshape(2, -1), records[10:, 1:])


def test_load(folder, records):
    """Also where a record begins like an IDX file: label 0, black, then 8 and 3."""
    whole = data.load(folder)
    assert (whole.images.shape, whole.classes) == ((10, 3, 32, 32), 10)
    records[0, :4] = 0, 0, 8, 3
    (folder / "data_batch_1.bin").write_bytes(records.tobytes())
    np.testing.assert_array_equal(data.load(folder / "data_batch_1.bin").labels, records[:, 0])


class TestRefused:
    def refused(self, path, *words, **options):
        with pytest.raises(data.DataError) as caught:
            data.read_cifar10(path, **options)
        message = str(caught.value)
        assert "\n" not in message
        assert [word for word in ("expected", "found", *words) if word not in message] == []

    @pytest.mark.parametrize("length", [0, 1, RECORD - 1, RECORD + 1, 5 * RECORD - 100])
    def test_cut_off(self, tmp_path, records, length):
        (tmp_path / "f").write_bytes(records.tobytes()[:length])
        self.refused(tmp_path / "f", "records of 3,073 bytes", "an empty file" if not length else f"{length:,} bytes")

    def test_label(self, tmp_path, records):
        records[3, 0] = 10
        (tmp_path / "f").write_bytes(records.tobytes())
        self.refused(tmp_path / "f", "labels from 0 to 9", "10 in record 3")

    def test_missing(self, folder, tmp_path):
        (folder / "data_batch_3.bin").unlink()
        self.refused(folder, "data_batch_3.bin", "a readable file")
        self.refused(tmp_path / "none", "a readable file")

    def test_too_large(self, folder):
        self.refused(folder, "at most 6,000 bytes", max_bytes=6000)

    def test_test_of_a_file(self, folder):
        self.refused(folder / "test_batch.bin", "a folder", test=True)

    def test_labels_beside(self, folder):
        with pytest.raises(data.DataError, match="no separate labels file"):
            data.load(folder, folder / "test_batch.bin")

    def test_load_of_a_damaged_one(self, folder):
        (folder / "test_batch.bin").write_bytes(b"\1" * 5000)
        with pytest.raises(data.DataError, match="records of 3,073 bytes"):
            data.load(folder / "test_batch.bin")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40), st.integers(-2, 2), st.integers(0, 3))
def test_any_bytes(tmp_path, start, more, records):
    path = tmp_path / "f"
    path.write_bytes((start + b"\5" * (records * RECORD))[: max(0, records * RECORD + more)])
    try:
        images, labels = data.read_cifar10(path)
    except data.DataError:
        return
    assert len(images) == len(labels) == records > 0
    assert labels.max() <= 9

import numpy as np
import pytest

from rwloss.store.digest import file_digest, labels_digest

LABELS = np.arange(24).reshape(2, 3, 4) % 5


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i4", "int64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_same_content_same_digest(dtype, order):
    other = np.array(LABELS, dtype=dtype, order=order)
    assert labels_digest(other, (1, 2, 3)) == labels_digest(LABELS, (1.0, 2.0, 3.0))


def test_other_labels_shape_or_spacing_give_another_digest():
    changed = LABELS.copy()
    changed[0, 0, 0] = 4
    digests = {
        labels_digest(LABELS, (1, 1, 1)),
        labels_digest(changed, (1, 1, 1)),
        labels_digest(LABELS.reshape(2, 4, 3), (1, 1, 1)),
        labels_digest(LABELS, (1, 1, 2)),
        labels_digest(LABELS + 2**15, (1, 1, 1)),
    }
    assert len(digests) == 5


def test_file_digest_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f").startswith("ba7816bf8f01cfea")

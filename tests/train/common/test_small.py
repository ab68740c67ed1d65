"""How small a file is to be is said in one word."""

import pytest

from train import small_files
from train.common.errors import UserError
from train.common.small import Setting


def test_settings() -> None:
    assert Setting.of("bytes64000") == Setting(bytes=64_000)
    assert Setting.of("rate2.5e-6") == Setting(rate=2.5e-6)
    assert Setting.of("k16") == Setting(k=16)
    assert all(Setting.of(name) for name in small_files.SETTINGS)
    for name in ("k0", "bytes", "rate", "w4", "k1.5", "ratex"):
        with pytest.raises(UserError, match="a setting is like bytes64000"):
            Setting.of(name)

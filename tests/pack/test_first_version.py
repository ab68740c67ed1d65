"""Files of the first version are read as they were written, and their checksums tell what was altered."""

import base64

import numpy as np
import pytest

from jaxcomp import pack
from jaxcomp.core.errors import ArtifactError

WRITTEN = (
    r"iAqCS0h0g#0NMZm07Z^V4udcZMDH@&deM*|5LdBS1V}5?1Q0|*Rm9!vkVQBC&G^{~gI~wbfsUCmpeL?-!ppBV>I#I-+j#-"
    r"82+H&l89~}-E-"
    r"OR268F5s7I!*CVnzB^wJQEIQ%zgEfAY9a?s)8WdAqXJP$RcFFV$pPxh8%Ww)oB8DPlMwr7Mqvi*~ZnqDzpVuEN{Vp%AYhl0$O50%Kr+f"
    r"d&xXzn{V09sp&gpq&8)!9mJ|AQ%A9T?`%|%GLa{i1I|$DuWU8772-"
    r"ZfWf}iD2(WL%KyFXlWUvyQfJ~hxEYWQVzi=X=IPxxr`u}CX9fLi^VXS-"
    r"2rSqEpR?<zh*nJxU2Q$gZ)N@kCm_o5TiU#vTpOi2Bbiu&mk<3V7zZB+V&+pmH{i<hdlVzOV&AOAKc6HKU6Uf1XkAZqF?hhmMiZ@HsF|o"
    r"vR@cB&(JQ989DCR!HQRvvp|?S-"
    r";QA1ce6H~3woaZOwjTKk=wF}{Dp`JagWSCDpc6PrJjZMDsZxauzrd*x(#B~>DP&62Kc;eEE&u=kfIgL3`aw)}U_~^0oq!n!D2a_#c6#-"
    r";k?n!>LxOlN>3G0^+IbVtgBODm1&ovqfU`^R+n{X&ICa|?HO5uYxs|&ItpH=kk#eJHzem8Pcle2Byu1|=e7i2yupyK&x3aa1i{kzeg`-"
    r"R$ce}B2k2~H|us4QIaX&&k7ZMyZju^0xEZv^`$ScY-pEbqbuZTD6RsG^!CYcO%S*|Ca+Y!di?z50Wtrp}P&M@|gGW5vdnp2DNxl}E`Av"
    r"P6R{7Fr_5^f=sDa6ZZ-6+053!G!lJU`)p7{bvdL>@FSq5ID9{>5{joD?JB^#JL^WoABaX_%yOS8s-"
    r"5Qvx@~G2&kP^K=};*!(h>Y3`SJa=(egCJtI>oU$k~Wbn`?wN-XPSR`BHZ;xz6CNy0)DdYvD6jyNyZMtrCdkWPx`OH?~Xgul*q0j|$d-"
    r"{oE1b6^z7=n%)i8j-"
    r"8khJ(6D!Um7G};GmaG6A}J8j#TxfL5=#1U#b4@%^YU{ne$S+3{%5pUhc?u$!~PBYY3AE+*2@!8Cxq|BCq6?MwD$NiYayOI@bhoOc?v9_"
    r"E*(sMOGwvb*gzspT}q}xTbDNRe2F~#f!{odPGm<6{6-kS!cZ>kBmWMWx{4;&cusTJG&e3)kYHBA"
)
"""A file that ``jc.pack.save`` wrote in November 2026, before version 2: base 85."""
H = (np.arange(48 * 32).reshape(48, 32) * 2654435761 % 2**32) >> 16
H = H * H % 8191
TREE = {
    "w": (H % 3 + 1 + 4 * (np.arange(32) % 3 > 0)).astype(np.float32) * np.float32(0.25),  # codes+range, in groups
    "m": [(H[:24] % 3 + 1 + 3 * (np.arange(32) % 2)).astype(np.int8)],
    "b": np.linspace(-1, 1, 5, dtype=np.float32),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "first.jcz"
    path.write_bytes(base64.b85decode("".join(WRITTEN)))
    return path


def test_what_was_saved_comes_back_bit_for_bit(path):
    pytest.importorskip("constriction")
    found, metadata = pack.load(path)
    assert metadata == {"a": 1}
    assert found["e"] == {}
    for name, array in (("w", TREE["w"]), ("b", TREE["b"])):
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()
    assert found["m"][0].tobytes() == TREE["m"][0].tobytes()
    assert [t.kind for t in pack.inspect(path, measured=True).tensors] == ["plain", "ints", "codes+range"]


def test_saved_again_it_is_smaller(path):
    pytest.importorskip("constriction")
    found, metadata = pack.load(path)
    again = path.with_name("again.jcz")
    assert pack.save(again, found, metadata=metadata) < path.stat().st_size - 40
    assert pack.load(again)[0]["w"].tobytes() == TREE["w"].tobytes()


def test_altered_cut_and_extended_files_are_told(path):
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for bit in [*range(8 * 20), *(8 * byte + int(rng.integers(8)) for byte in range(20, len(data), 7))]:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ArtifactError, match=path.name):
            pack.load(path)
    for length in range(0, len(data), 11):
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError, match=path.name):
            pack.load(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ArtifactError, match="extended"):
        pack.load(path)
    path.write_bytes(data[:-5])
    with pytest.raises(ArtifactError, match="cut short"):
        pack.load(path)

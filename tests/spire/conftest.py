"""Every scenario runs against a real SPIRE, where there is one, and against a partner that plays it, where there is Go; the
runner reports them apart."""
import pytest

from lab import spire, spire_partner

KINDS = {"real": (spire.Spire, spire.missing), "partner": (spire_partner.Partner, spire_partner.missing)}


@pytest.fixture(params=KINDS)
def Spire(request):
    """What makes one: Spire(domain)."""
    make, missing = KINDS[request.param]
    if why := missing():
        pytest.skip(why)
    return make


@pytest.fixture(params=["real"])
def Real(request):
    """For what is about SPIRE's own programs: their files and their command line."""
    if why := spire.missing():
        pytest.skip(why)
    return spire.Spire


@pytest.fixture(params=["partner"])
def Partner():
    """For what a real one will not do."""
    if why := spire_partner.missing():
        pytest.skip(why)
    return spire_partner.Partner

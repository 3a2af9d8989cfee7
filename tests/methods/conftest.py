import pytest

from tests.nets.zoo import ZOO


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A backbone that is quick to export, for what has nothing to do with the backbone."""
    return {"backbone": ZOO["hub resnet"](tmp_path_factory.mktemp("small"))[0]}

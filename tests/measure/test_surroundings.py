import getpass
import json
import platform
from pathlib import Path

import torch

from spectrim.measure import hardware, versions


def test_hardware_and_versions_are_json_and_say_what_matters():
    machine, libraries = hardware(), versions()
    assert json.loads(json.dumps([machine, libraries])) == [machine, libraries]
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert machine["threads"] == torch.get_num_threads()
    assert libraries["torch"] == torch.__version__
    assert libraries["python"] == platform.python_version()


def test_no_host_no_user_and_no_folder_is_told():
    text = json.dumps([hardware(), versions()])
    assert platform.node() not in text
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert f'"{getpass.getuser()}"' not in text

"""Python stubs of the shop's protos, made when they are first needed."""

import importlib
import pathlib
import sys
import tempfile

import grpc_tools.protoc

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent / "proto"


def load():
    """Compiles the protos and gives the modules by their areas: types, participant, coordinator."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="till-stubs-"))
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("till/*/v1/*.proto"))
    flags = [f"-I{ROOT}", f"--python_out={directory}", f"--grpc_python_out={directory}"]
    if grpc_tools.protoc.main(["protoc", *flags, *files]) != 0:
        raise RuntimeError("the protos do not compile")
    sys.path.insert(0, str(directory))

    def module(area, suffix):
        return importlib.import_module(f"till.{area}.v1.{area}_{suffix}")

    areas = ("types", "participant", "coordinator")
    messages = {area: module(area, "pb2") for area in areas}
    services = {area: module(area, "pb2_grpc") for area in areas}
    return messages, services

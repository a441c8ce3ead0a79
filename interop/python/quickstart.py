"""The quickstart's steps from a Python client generated from proto/.

Usage: quickstart.py ADDRESS DIRECTORY

Makes two volumes in DIRECTORY on the box at ADDRESS, copies one to the other with QuickOPC while it changes, copies the
difference, restores, and checks every byte against what it wrote. Prints one JSON object; an exception means failure.
"""

import hashlib
import json
import os
import sys
import uuid

import grpc
from google.rpc import error_details_pb2, status_pb2
from tidemark.v1 import box_pb2, box_pb2_grpc, copy_pb2, copy_pb2_grpc
from tidemark.v1 import data_pb2, data_pb2_grpc, volume_pb2, volume_pb2_grpc

MIB = 1 << 20
GRANULE = 8 << 10
SIZE = 8 * MIB


class Box:
    """Stubs of one box."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.box = box_pb2_grpc.BoxServiceStub(self.channel)
        self.volumes = volume_pb2_grpc.VolumeServiceStub(self.channel)
        self.copies = copy_pb2_grpc.CopyServiceStub(self.channel)
        self.data = data_pb2_grpc.DataServiceStub(self.channel)

    def create(self, path, label):
        request = volume_pb2.CreateVolumeRequest(
            path=path, size_bytes=SIZE, label=label, request_id=str(uuid.uuid4())
        )
        first = self.volumes.CreateVolume(request, timeout=30).volume
        again = self.volumes.CreateVolume(request, timeout=30).volume
        assert first == again, "a repeated request gets the first answer"
        return first

    def write(self, name, offset, content):
        def pieces():
            for at in range(0, len(content), MIB):
                yield data_pb2.WriteBlocksRequest(
                    name=name, offset_bytes=offset + at, data=content[at : at + MIB], flush=True
                )

        written = self.data.WriteBlocks(pieces(), timeout=30).bytes_written
        assert written == len(content), written

    def read(self, name):
        content = bytearray()
        for piece in self.data.ReadBlocks(data_pb2.ReadBlocksRequest(name=name), timeout=30):
            assert piece.offset_bytes == len(content)
            content += piece.data
        return bytes(content)

    def start(self, source, destination, kind):
        request = copy_pb2.StartCopyRequest(
            pairs=[copy_pb2.CopyPair(source=source, destination=destination)], kind=kind
        )
        return self.copies.StartCopy(request, timeout=30).copies[0]

    def wait(self, copy_id):
        last = None
        for message in self.copies.WatchCopy(copy_pb2.WatchCopyRequest(id=copy_id), timeout=60):
            last = message.copy
        return last


def refusal(call):
    """Status, reason and hint of a call that must be refused."""
    try:
        call()
    except grpc.RpcError as error:
        raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
        info = error_details_pb2.ErrorInfo()
        status_pb2.Status.FromString(raw).details[0].Unpack(info)
        return {"status": error.code().name, "reason": info.reason, "hint": info.metadata["hint"]}
    raise AssertionError("the call was not refused")


def main(address, directory):
    box = Box(address)
    source = box.create(os.path.join(directory, "source.img"), "source")
    box.create(os.path.join(directory, "copy.img"), "copy")
    model = bytearray(SIZE)

    def change(offset, content):
        box.write("source", offset, content)
        model[offset : offset + len(content)] = content

    change(0, os.urandom(3 * MIB))
    point = bytes(model)
    first = box.start("source", "copy", copy_pb2.COPY_KIND_QUICKOPC)
    change(MIB, os.urandom(2 * GRANULE))
    change(5 * MIB, os.urandom(GRANULE))
    done = box.wait(first.id)
    assert done.phase == copy_pb2.COPY_PHASE_TRACKING, done
    assert box.read("copy") == point, "the copy is the source at the instant of the point"

    plan = box.copies.ExplainCopy(
        copy_pb2.ExplainCopyRequest(source="source", destination="copy", kind=copy_pb2.COPY_KIND_QUICKOPC), timeout=30
    )
    changed = [
        (extent.offset_bytes, extent.length_bytes)
        for piece in box.data.ListChangedExtents(
            data_pb2.ListChangedExtentsRequest(name="source", since_epoch=first.source_epoch), timeout=30
        )
        for extent in piece.extents
    ]
    assert changed == [(MIB, 2 * GRANULE), (5 * MIB, GRANULE)], changed

    second = box.copies.RestartCopy(copy_pb2.RestartCopyRequest(ids=[first.id]), timeout=30).copies[0]
    box.wait(first.id)
    assert box.read("copy") == bytes(model), "the copy is the source at the second point"

    point = bytes(model)
    box.write("source", 2 * MIB, os.urandom(4 * GRANULE))
    restore = box.start("copy", "source", copy_pb2.COPY_KIND_OPC)
    box.wait(restore.id)
    restored = box.read("source")
    assert restored == point, "the source is what it was"

    refused = refusal(lambda: box.start("source", "source", copy_pb2.COPY_KIND_OPC))
    events = box.box.ListEvents(box_pb2.ListEventsRequest(subject=first.id), timeout=30).events
    return {
        "volume": source.name,
        "session": first.id,
        "explained": copy_pb2.CopyReason.Name(plan.reason),
        "plannedGranules": [first.planned_granules, second.planned_granules, restore.planned_granules],
        "reasons": [copy_pb2.CopyReason.Name(copy.reason) for copy in (first, second, restore)],
        "changedExtents": changed,
        "restoredSha256": hashlib.sha256(restored).hexdigest(),
        "expectedSha256": hashlib.sha256(point).hexdigest(),
        "refused": refused,
        "events": [event.type for event in events],
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2])))

"""What a sender asks to commit reaches the assembler as evidence, after what it names; nothing is committed."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.dsutils import encode
from unit.listener.modality import CT, Scu, image
from unit.listener.modality import encode as encode_image
from unit.listener.site import Site

from ichor.messages import ContentAnnounced, InstancesReceived
from listener.commitment import read_request

COMMITMENT = "1.2.840.10008.1.20.1"
INSTANCE = "1.2.840.10008.1.20.1.1"


def asked(uids: list[str]) -> Dataset:
    request = Dataset()
    request.TransactionUID = generate_uid()
    items = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, uid
        items.append(item)
    request.ReferencedSOPSequence = items
    return request


def information(data: Dataset) -> BytesIO:
    encoded = encode(data, False, True)
    assert encoded is not None
    return BytesIO(encoded)


def act(port: int, data: Dataset, action: int = 1) -> int:
    entity = AE(ae_title="CT1")
    entity.add_requested_context(COMMITMENT, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="ICHOR")
    assert association.is_established
    status, _ = association.send_n_action(data, action, COMMITMENT, INSTANCE)
    association.release()
    return int(status.Status)


def test_a_request_tells_what_is_known_and_what_is_not_and_commits_to_nothing(site: Site) -> None:
    scu = Scu(site.port)
    for sop in ("1.2.3.4.1", "1.2.3.4.2"):
        assert scu.store(encode_image(image(sop)), sop_instance=sop) == 0x0000
    scu.release()
    assert act(site.port, asked(["1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.99"])) == 0x0110
    site.bus.wait_for(lambda bus: any(isinstance(data, ContentAnnounced) for data in bus.data()))
    told = site.bus.data()
    (announced,) = [data for data in told if isinstance(data, ContentAnnounced)]
    assert (set(announced.sop_instance_uids), announced.unknown) == ({"1.2.3.4.1", "1.2.3.4.2"}, 1)
    assert announced.calling_ae == "CT1"
    assert announced.study_instance_uid == site.bus.instances()[0].study_instance_uid
    last = max(n for n, data in enumerate(told) if isinstance(data, InstancesReceived))
    assert told.index(announced) > last


def test_what_is_no_such_request_is_refused_and_the_receiver_goes_on(site: Site) -> None:
    assert act(site.port, asked(["1.2.3.4.1"]), action=2) == 0x0115
    assert act(site.port, asked([])) == 0x0115
    assert act(site.port, asked(["../../etc"])) == 0x0115
    scu = Scu(site.port)
    assert scu.store(encode_image(image("1.2.3.4.1")), sop_instance="1.2.3.4.1") == 0x0000
    scu.release()


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_no_cut_of_a_request_names_what_it_does_not() -> None:
    whole = information(asked(["1.2.3.4.1", "1.2.3.4.2"])).getvalue()
    syntax = str(ExplicitVRLittleEndian)
    assert read_request(BytesIO(whole), action_type=1, transfer_syntax_uid=syntax) == ("1.2.3.4.1", "1.2.3.4.2")
    for length in range(len(whole)):
        found = read_request(BytesIO(whole[:length]), action_type=1, transfer_syntax_uid=syntax)
        # A UID may be cut as well: the journal does not know it.
        assert all("1.2.3.4.1".startswith(uid) or "1.2.3.4.2".startswith(uid) for uid in found or ())
    assert read_request(None, action_type=1, transfer_syntax_uid=syntax) is None

"""From a data folder to its store: files or a bucket. Knows which there are and nothing of what they do."""

from __future__ import annotations

from ichor.cli.folder import DataFolder
from ichor.store.blobs import FileBlobs
from ichor.store.bucket import open_bucket
from ichor.store.protocol import Blobs, Receivers, Spool
from ichor.store.shared import Receivers as FolderReceivers
from ichor.store.shared import receiver_of_folder, register
from ichor.store.spool import FileSpool


def open_spool(folder: DataFolder) -> Spool:
    """For who reads, recovers or removes."""
    return write_spool(folder, durability="instance", writer="", carries=True)


def write_spool(folder: DataFolder, *, durability: str, writer: str, carries: bool) -> Spool:
    """A receiving process's own; see `ichor.store.spool.FileSpool`. Where it is shared, of the receiver of this folder."""
    receiver = receiver_of_folder(folder.root) if writer and folder.is_shared else ""
    if folder.bucket is None:
        return FileSpool(folder.spool, durability=durability, writer=writer, receiver=receiver, carries=carries)
    from ichor.store.bucket_spool import BucketSpool

    return BucketSpool(open_bucket(folder.bucket), staging=folder.spool, writer=writer, receiver=receiver)


def open_blobs(folder: DataFolder) -> Blobs:
    """TransientError and OSError of the store go to who uses it."""
    if folder.bucket is None:
        return FileBlobs(folder.blobs)
    from ichor.store.bucket_blobs import BucketBlobs

    return BucketBlobs(open_bucket(folder.bucket))


def register_receiver(folder: DataFolder, *, site_name: str) -> None:
    """What receives here has a name, where the store is shared; CannotStart when the store is away."""
    if folder.store is not None:
        register(folder.store, folder.root, site_name=site_name)
    elif folder.bucket is not None:
        from ichor.store.bucket_receivers import register as register_in_bucket

        register_in_bucket(open_bucket(folder.bucket), folder.root, site_name=site_name)


def open_receivers(folder: DataFolder, *, lost_after: float) -> Receivers | None:
    """For the relay of this folder; None where nobody shares its store."""
    name = receiver_of_folder(folder.root)
    if folder.store is not None:
        return FolderReceivers(folder.store, name, lost_after=lost_after)
    if folder.bucket is not None:
        from ichor.store.bucket_receivers import BucketReceivers

        return BucketReceivers(open_bucket(folder.bucket), name, lost_after=lost_after)
    return None

"""Every metric of Ichor, in one place; `docs/metrics.md` is made from this table. No PHI in labels."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# Seconds: from a single image (ms) to a waiting delivery (minutes).
_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

STAGE_SECONDS = Histogram(
    "ichor_stage_seconds", "Seconds that one study, image or object spent in a stage", ["stage"], buckets=_SECONDS
)
INSTANCES_STORED = Counter("ichor_instances_stored_total", "Objects acknowledged with Success", ["calling_ae"])
BYTES_STORED = Counter("ichor_bytes_stored_total", "Bytes of objects acknowledged with Success")
STORES_REFUSED = Counter("ichor_stores_refused_total", "C-STOREs answered with a failing status", ["status"])
ASSOCIATIONS_REJECTED = Counter("ichor_associations_rejected_total", "Associations rejected", ["reason"])
CONNECTIONS_DROPPED = Counter(
    "ichor_connections_dropped_total", "Connections that ended before they became an association", ["reason"]
)
CONNECTIONS_WAITING = Gauge(
    "ichor_connections_waiting", "Connections that have not asked for an association", multiprocess_mode="livesum"
)
ASSOCIATIONS_ABORTED = Counter("ichor_associations_aborted_total", "Associations that were not released", ["cause"])
COMMITMENT_REQUESTS = Counter(
    "ichor_commitment_requests_total", "Requests for storage commitment, by answer", ["status"]
)
COMMITMENT_REPORTS = Counter(
    "ichor_commitment_reports_total",
    "Reports of storage commitment: delivered, given up, or to be repeated",
    ["outcome"],
)
ASSOCIATIONS_OPEN = Gauge("ichor_associations_open", "Associations open now", multiprocess_mode="livesum")
ROUTINE_WAITS = Counter("ichor_routine_waits_total", "Objects that waited because a STAT sender was sending")
RECEIVERS_HUNG = Counter(
    "ichor_receivers_hung_total", "Times that a receiving process took none of the connections that it was given"
)
RECEIVE_PATH = Gauge(
    "ichor_receive_path", "Receiving processes, by the path that their C-STOREs take", ["path"],
    multiprocess_mode="livesum",
)  # fmt: skip
TLS_CERTIFICATE_EXPIRES = Gauge(
    "ichor_tls_certificate_expires_timestamp_seconds", "When the listener's certificate ends (POSIX seconds)",
    multiprocess_mode="mostrecent",
)  # fmt: skip
STOW_REQUESTS = Counter("ichor_stow_requests_total", "Store transactions (STOW-RS) that ended", ["status"])
SERIES_DECIDED = Counter("ichor_series_decided_total", "Series that left the open state", ["grade"])
SERIES_AMENDED = Counter("ichor_series_amended_total", "Complete series that a late image reopened", ["grade"])
ASSEMBLY_SHARDS = Gauge(
    "ichor_assembly_shards", "Shards into which studies are divided among assemblers", multiprocess_mode="mostrecent"
)
ASSEMBLY_SHARDS_OWNED = Gauge(
    "ichor_assembly_shards_owned", "Shards that this assembler owns", multiprocess_mode="livesum"
)
INSTANCE_DEFECTS = Counter("ichor_instance_defects_total", "Stored objects that cannot be measured", ["reason"])
JOBS = Counter("ichor_jobs_total", "Jobs that ended", ["pipeline", "outcome"])
JOB_ATTEMPTS_FAILED = Counter("ichor_job_attempts_failed_total", "Attempts at a job that failed", ["pipeline"])
DELIVERIES = Counter("ichor_deliveries_total", "Objects whose delivery became final", ["destination", "state"])
DELIVERY_RETRIES = Counter("ichor_delivery_retries_total", "Delivery attempts to be repeated", ["destination"])
DEAD_LETTERS = Gauge("ichor_dead_letters", "Messages given up", ["topic"], multiprocess_mode="mostrecent")
BUS_WAITING = Gauge(
    "ichor_bus_waiting", "Messages not finished by a group", ["topic", "group"], multiprocess_mode="mostrecent"
)
BUS_AWAY = Gauge("ichor_bus_away", "1 while a role cannot use the bus", multiprocess_mode="livemax")
RECEIPTS_DAMAGED = Counter("ichor_receipts_damaged_total", "Places in the receipts log that hold no whole record")
RECEIPTS_UNREAD = Gauge(
    "ichor_receipts_unread_bytes", "Bytes of the receipts log that are not told yet", ["lane"],
    multiprocess_mode="mostrecent",
)  # fmt: skip
OBJECTS_RECOVERED = Counter(
    "ichor_objects_recovered_total", "Whole objects of the spool that the journal did not know and that came in"
)
OBJECTS_WRITTEN_BACK = Counter(
    "ichor_objects_written_back_total", "Objects that the spool lacked after a crash and that the receipts log had"
)
OBJECTS_LOST = Counter("ichor_objects_lost_total", "Acknowledged objects whose bytes are not in the spool")
LOOP_ERRORS = Counter("ichor_loop_errors_total", "Unexpected errors caught at a loop's edge", ["role"])
OUTAGES = Counter(
    "ichor_outages_total", "Times that what a loop needs was away or refused it, from first to last one", ["role"]
)
SPOOL_FREE_BYTES = Gauge(
    "ichor_spool_free_bytes", "Free bytes for the spool or the receipts log, whichever has less",
    multiprocess_mode="mostrecent",
)  # fmt: skip


def table() -> str:
    """The metrics as a Markdown table, as committed in ``docs/metrics.md``."""
    rows = []
    for metric in globals().values():
        if isinstance(metric, Counter | Gauge | Histogram):
            (family,) = metric.describe()
            name = family.name + ("_total" if isinstance(metric, Counter) else "")
            labels = ", ".join(getattr(metric, "_labelnames", ())) or "-"
            rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "| metric | type | labels | what it says |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")

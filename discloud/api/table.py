"""Every operation of the native surface: what is served, and what OpenAPI says of it."""

from __future__ import annotations

from discloud.api import admin, forms, native, openapi, probes
from discloud.api.routes import Parameter, Route, Router

LAYOUT = (
    Parameter("copies", "copies on distinct nodes: a number or `all`"),
    Parameter("layout", "`mirror:N`, `mirror:all`, `stripe:N` or `stripe:NxR`"),
    Parameter("nodes", "names of nodes that hold the file, `self` = the asked one; comma separated"),
    Parameter("regions", "regions that get at least one copy; comma separated"),
    Parameter("ack", "durable copies before the answer: a number or `all`"),
)
CONDITIONS = (
    Parameter("If-Match", "only if the object has one of these entity tags", "header"),
    Parameter("If-None-Match", "`*` = only if there is no object", "header"),
    Parameter("If-Unmodified-Since", "only if not changed since", "header"),
)
DIGESTS = (
    Parameter("Content-Digest", "RFC 9530: sha-256, sha-512 or md5 of the body, checked", "header"),
    Parameter("Content-MD5", "MD5 of the body, checked", "header"),
)
READ = (
    Parameter("version", "a version id instead of the newest"),
    Parameter("download", "`1` = as an attachment"),
    Parameter("max-size", "refuse with 413 if the object is larger", kind="integer"),
    Parameter("explain", "`1` = what the read would consider, as JSON"),
    Parameter("Range", "RFC 9110 section 14, also several ranges", "header"),
    Parameter("If-Range", "the Range holds only for this entity tag or date", "header"),
    Parameter("If-None-Match", "304 if the object has one of these entity tags", "header"),
    Parameter("If-Modified-Since", "304 if not changed since", "header"),
)
LISTING = (
    Parameter("prefix", "only keys that begin with it"),
    Parameter("delimiter", "roll up keys that hold this character behind the prefix"),
    Parameter("after", "continue behind this key or prefix"),
    Parameter("limit", "entries in the page", kind="integer"),
)
WRITES = (
    (400, "malformed or contradictory"),
    (412, "a condition failed"),
    (413, "too large"),
    (507, "no room or too few nodes"),
)
READS = ((304, "not modified"), (404, "no such object"), (412, "a condition failed"), (416, "no such range"))
FILE = "/v1/files/{bucket}/{key*}"

ROUTES = (
    Route("PUT", FILE, native.put_file, "Store an object", LAYOUT + CONDITIONS + DIGESTS, "binary", ((201, "stored"), (200, "replaced"), *WRITES)),
    Route("GET", FILE, native.get_file, "Read an object, through any node", READ, "", ((200, "the bytes"), (206, "a range"), *READS)),
    Route("HEAD", FILE, native.head_file, "An object's headers", READ, "", ((200, "the headers"), *READS)),
    Route("DELETE", FILE, native.delete_file, "Remove an object", CONDITIONS, "", ((204, "removed"), (404, "no such object"))),
    Route("PATCH", FILE, native.patch_file, "Rename an object or change what is said of it", CONDITIONS, "json", ((200, "changed"), (404, "no such object"))),
    Route("POST", FILE, forms.post_form, "Store the files of a form under a prefix, or copy an object", (Parameter("copy", "bucket/key to copy from"), Parameter("version", "the version to copy"), *LAYOUT), "form", ((201, "stored"), *WRITES)),
    Route("POST", "/v1/files/{bucket}/", forms.post_form, "Store the files of a form", LAYOUT, "form", ((201, "stored"), *WRITES)),
    Route("POST", "/v1/files/{bucket}", forms.post_form, "Store the files of a form", LAYOUT, "form", ((201, "stored"), *WRITES)),
    Route("GET", "/v1/files/{bucket}", native.list_files, "List objects", LISTING, "", ((200, "one page"), (404, "no such bucket"))),
    Route("GET", "/v1/map/{bucket}/{key*}", native.map_file, "Where every fragment and copy lies now", (), "", ((200, "the map"), (404, "no such object"))),
    Route("POST", "/v1/upload", forms.post_upload, "Store one file under a new id", LAYOUT, "form", ((201, "the id"), *WRITES)),
    Route("GET", "/v1/download/{id}", native.get_download, "Read a file by its id", READ, "", ((200, "the bytes"), *READS)),
    Route("HEAD", "/v1/download/{id}", native.head_download, "A file's headers by its id", READ, "", ((200, "the headers"), *READS)),
    Route("GET", "/v1/buckets", admin.list_buckets, "Every bucket", tag="buckets"),
    Route("GET", "/v1/buckets/{bucket}", admin.get_bucket, "A bucket's settings", answers=((200, "the bucket"), (404, "no such bucket")), tag="buckets"),
    Route("PUT", "/v1/buckets/{bucket}", admin.put_bucket, "Make a bucket", body="json", answers=((201, "made"), (409, "exists")), tag="buckets"),
    Route("PATCH", "/v1/buckets/{bucket}", admin.patch_bucket, "Change a bucket's settings", body="json", answers=((200, "changed"), (404, "no such bucket")), tag="buckets"),
    Route("DELETE", "/v1/buckets/{bucket}", admin.delete_bucket, "Remove an empty bucket", answers=((204, "removed"), (409, "not empty")), tag="buckets"),
    Route("GET", "/v1/nodes", admin.list_nodes, "The nodes as the asked one sees them", tag="mesh"),
    Route("GET", "/v1/cluster", admin.get_cluster, "The mesh in one answer", tag="mesh"),
    Route("GET", "/v1/me", admin.get_me, "Whose token this is", tag="mesh"),
    Route("GET", "/livez", probes.livez, "Is the process alive", open=True, tag="machines"),
    Route("GET", "/healthz", probes.livez, "Alias of /livez", open=True, tag="machines"),
    Route("GET", "/readyz", probes.readyz, "Can the node serve", answers=((200, "yes"), (503, "no, with the reasons")), open=True, tag="machines"),
    Route("GET", "/metrics", probes.show_metrics, "Counters in the Prometheus format", tag="machines"),
)  # fmt: skip


def native_router() -> Router:
    """The router of the native surface."""
    return Router(openapi.self_describing(ROUTES))

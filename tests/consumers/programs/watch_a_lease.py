"""Put a key with a lease of one second and print what a watch says. Arguments: etcd3's keyword arguments, the key."""

import json
import sys

import etcd3

arguments, key = sys.argv[1:]
client = etcd3.client(**json.loads(arguments))
events, _ = client.watch(key)  # Returns once the server watches.
client.put(key, "short", lease=client.lease(1))
kept, lost = next(events), next(events)
print(json.dumps([type(kept).__name__, kept.value.decode(), type(lost).__name__]))

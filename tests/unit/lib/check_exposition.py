"""Reads Prometheus text from a file with Prometheus' own client library, and says what it saw as JSON."""
import json
import sys

from prometheus_client.parser import text_string_to_metric_families

families = {}
with open(sys.argv[1], encoding="utf-8") as f:
    for family in text_string_to_metric_families(f.read()):
        if family.name in families:
            sys.exit(f"{family.name} is there twice")
        families[family.name] = {
            "type": family.type,
            "help": family.documentation,
            "samples": [[s.name, s.labels, s.value] for s in family.samples],
        }
json.dump(families, sys.stdout)

"""Judges answers by the document that the shop publishes about itself."""

import json
import re

import jsonschema


class Contract:
    """The OpenAPI document of a running shop."""

    def __init__(self, document):
        self.document = document
        self.used = set()
        self._operations = []
        for template, methods in document["paths"].items():
            pattern = re.sub(r"\\\{[^/]+?\\\}", "[^/]+", re.escape(template))
            for method, operation in methods.items():
                if method in ("get", "post", "delete", "put", "patch"):
                    # A literal segment wins over a parameter: /payment/pay/... has templates of both lengths.
                    rank = template.count("{")
                    self._operations.append((rank, re.compile(pattern), method.upper(), template, operation))
        self._operations.sort(key=lambda entry: entry[0])

    def operations(self):
        """All (method, template) pairs."""
        return {(method, template) for _, _, method, template, _ in self._operations}

    def problems(self, method, path, status, content_type, text):
        """What is wrong with this answer; empty when it is as published. `None`: no such operation."""
        path = path.split("?")[0]
        for _, pattern, known_method, template, operation in self._operations:
            if known_method == method and pattern.fullmatch(path):
                self.used.add((method, template, status))
                return self._judge(operation, status, content_type, text)
        return None

    def _judge(self, operation, status, content_type, text):
        responses = operation["responses"]
        response = responses.get(str(status), responses.get("default"))
        if response is None:
            return [f"status {status} is not among the published {sorted(responses)}"]
        response = self._resolve(response)
        content = response.get("content")
        if not content:
            return [] if text == "" else [f"a body where none is published: {text[:80]!r}"]
        kind = content_type.split(";")[0].strip()
        if kind not in content:
            return [f"content type {kind} is not among the published {sorted(content)}"]
        schema = content[kind].get("schema")
        if schema is None:
            return []
        if kind.endswith("json"):
            try:
                value = json.loads(text)
            except ValueError as error:
                return [f"not JSON: {error}"]
        else:
            value = text
        # References in the document start at its root.
        whole = {"components": self.document.get("components", {}), **schema}
        validator = jsonschema.Draft202012Validator(whole)
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]

    def _resolve(self, node):
        while "$ref" in node:
            target = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = target
        return node

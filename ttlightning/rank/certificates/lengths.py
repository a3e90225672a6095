"""Certificates of equal cores for sequences of another length than the network's number of sites."""

from ttlightning.rank.certificates import Certificate
from ttlightning.rank.statements import length_statement


def with_length(certificate: Certificate, network_sites: int) -> Certificate:
    """The certificate of ``format.of_length(sites)``, for a network of these weights with ``network_sites`` sites."""
    statement = certificate["statement"] + length_statement(certificate["sites"], network_sites)
    return certificate | {"statement": statement, "network_sites": network_sites}

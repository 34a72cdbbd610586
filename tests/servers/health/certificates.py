# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests: an authority and what it signs, made when they are needed."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


class Authority:
    """Signs certificates; its own is in `file`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory
        self.file = directory / f"{name}.pem"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = self._builder(self._name, self._key, 0).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        signed = own.sign(self._key, hashes.SHA256())
        self.file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def sign(self, *names: str, days_ago: int = 0) -> Path:
        """Make a certificate for these names or addresses, issued so long ago for ten days, with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        alternatives = x509.SubjectAlternativeName(
            [x509.IPAddress(IPv4Address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]
        )
        signed = (
            self._builder(subject, key, days_ago)
            .add_extension(alternatives, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = self.directory / f"{names[0]}-{days_ago}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + signed.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days_ago: int
    ) -> x509.CertificateBuilder:
        begin = datetime.now(UTC) - _DAY * (days_ago + 1)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + 11 * _DAY)
        )

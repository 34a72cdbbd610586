# SPDX-License-Identifier: Apache-2.0
"""Every mistake that a configuration can have, at its line."""

from pathlib import Path

import pytest

from tests.configs import assert_mistakes, mistakes_in

# Each text has `# ! part of the message` on the lines where a mistake is expected, and no other mistakes.
MISTAKES = {
    "unknown key with the key that was meant": """
interfaces: [eth0]
vip: []  # ! no key "vip": did you mean "vips"?
""",
    "unknown key of a VIP and of a server": """
interfaces: [eth0]
vips:
  - address: 192.0.2.1
    prot: 80  # ! a VIP has no key "prot": did you mean "port"?
    colour: red  # ! a VIP has no key "colour": write one of
    servers:
      - {address: 10.0.0.1, Port: 80}  # ! a server has no key "Port": did you mean "port"?
      - address: 10.0.0.1
        port: 81
        policy:  # ! it belongs to a VIP
          hash
""",
    "missing keys, at the mapping that lacks them": """
vips:  # ! no "interfaces"
  - port: 80  # ! a VIP has no "address" ! a VIP has no "servers"
    name: web
  - address: 192.0.2.1
    port: 81
    servers:
      - port: 80
        address: 10.0.0.1
      - name: web  # ! a server has no "address" ! a server has no "port"
""",
    "a key twice": """
interfaces: [eth0]
interfaces: [eth1]  # ! already on line 2
vips:
  - address: 192.0.2.1
    port: 80
    servers: [{address: 10.0.0.1, port: 1, port: 2}]  # ! the key "port" is already on line 7
    port: 81  # ! the key "port" is already on line 6
""",
    "wrong kinds": """
interfaces: eth0  # ! "interfaces" must be a list, not "eth0"
vips:
  - 192.0.2.1  # ! a VIP must have keys
  - address: [192.0.2.1]  # ! address must be text, not a list
    port: {}  # ! port keys with values is not a plain number
    servers:
      web: 10.0.0.1  # ! "servers" must be a list, not keys with values
direct:  # ! "direct" must be a list, not nothing
""",
    "nothing where something is needed": """
interfaces: []  # ! "interfaces" is empty
vips: []  # ! "vips" is empty
""",
    "ports": """
interfaces: [eth0]
vips:
  - address: 192.0.2.1
    port: 0  # ! port 0 is out of range
    servers:
      - {address: 10.0.0.1, port: 65536}  # ! port 65536 is out of range
      - {address: 10.0.0.1, port: -1}  # ! port -1 is out of range
      - {address: 10.0.0.1, port: 080}  # ! leave out quotes and leading zeros (80)
      - {address: 10.0.0.1, port: 010}  # ! leave out quotes and leading zeros (10)
      - {address: 10.0.0.1, port: "80"}  # ! leave out quotes and leading zeros (80)
      - {address: 10.0.0.1, port: 10:50}  # ! port 10:50 is not a plain number
      - {address: 10.0.0.1, port: 10:80}  # ! port "10:80" is not a plain number
      - {address: 10.0.0.1, port: 0x50}  # ! port 0x50 is not a plain number
      - {address: 10.0.0.1, port: 8_0}  # ! port 8_0 is not a plain number
      - {address: 10.0.0.1, port: 80.0}  # ! port 80.0 is not a plain number
      - {address: 10.0.0.1, port: http}  # ! port "http" is not a plain number
      - {address: 10.0.0.1, port: on}  # ! port on is not a plain number
      - {address: 10.0.0.1, port: }  # ! port has no value
      - {address: 10.0.0.1, port: 99999999999999999999}  # ! not a plain number
""",
    "addresses": """
interfaces: [eth0]
vips:
  - address: 224.0.0.1  # ! a multicast address
    port: 80
    servers:
      - {address: 127.0.0.1, port: 80}  # ! a loopback address
      - {address: 0.0.0.0, port: 80}  # ! the unspecified address
      - {address: 255.255.255.255, port: 80}  # ! the broadcast address
      - {address: 10.0.0.256, port: 80}  # ! write four numbers from 0 to 255
      - {address: 10.0.0.01, port: 80}  # ! without leading zeros
      - {address: 10.0.0.1/24, port: 80}  # ! leave out the prefix length
      - {address: "10.0.0.1:80", port: 80}  # ! write the port apart, as `port: 80`
      - {address: web1.example, port: 80}  # ! host names are not looked up
      - {address: 10.1, port: 80}  # ! 10.1 is a number in YAML
      - {address: 167772161, port: 80}  # ! is a number, not text
      - {address: ~, port: 80}  # ! address has no value
""",
    "IPv6 addresses": """
interfaces: [eth0]
vips:
  - address: ff02::1  # ! a multicast address
    port: 80
    servers:
      - {address: "::1", port: 80}  # ! a loopback address
      - {address: "::", port: 80}  # ! the unspecified address
      - {address: fe80::1, port: 80}  # ! a link-local address
      - {address: "::ffff:10.0.0.1", port: 80}  # ! an IPv4-mapped address
      - {address: 2001:db8::1/64, port: 80}  # ! leave out the prefix length
      - {address: "[2001:db8::1]:80", port: 80}  # ! write the port apart, as `port: 80`
      - {address: "[2001:db8::1]", port: 80}  # ! leave out the brackets
      - {address: 2001:db8::1::2, port: 80}  # ! write groups of hexadecimal digits
      - {address: "2001:db8::1%eth0", port: 80}  # ! leave out the %
      - {address: 2001:10:0:5:1:2:3:4, port: 80}  # ! is a number in YAML
""",
    "two families in a VIP": """
interfaces: [eth0]
vips:
  - address: 2001:db8::1
    port: 80
    servers:
      - {address: 2001:db8::2, port: 80}
      - {address: 10.0.0.1, port: 80}  # ! is IPv4, but its VIP on line 4 is IPv6
  - address: 192.0.2.1
    port: 80
    servers:
      - address: 2001:db8::3  # ! write the server's IPv4 address
        port: 80
""",
    "names": """
interfaces: [eth0]
vips:
  - address: 192.0.2.1
    port: 80
    name: off  # ! name off is a truth value in YAML: put it in quotes, "off"
    servers:
      - {address: 10.0.0.1, port: 80, name: 17}  # ! put it in quotes, "17"
      - {address: 10.0.0.2, port: 80, name: 2026-11-22}  # ! is a date in YAML
      - {address: 10.0.0.3, port: 80, name: a/b}  # ! name "a/b" cannot be used
      - {address: 10.0.0.4, port: 80, name: ""}  # ! cannot be used
      - {address: 10.0.0.5, port: 80, name: "a\\nb"}  # ! name "a\\nb" cannot be used
""",
    "interfaces": """
interfaces:
  - eth0
  - a-name-of-16-byt  # ! cannot exist
  - eth0/1  # ! cannot exist
  - 7  # ! put it in quotes
  - eth0  # ! interface "eth0" is already on line 3
  - {name: eth0, vlans: [10]}  # ! interface "eth0" is already on line 3
  - {name: eth1, vlans: [100, 10]}
  - {name: eth2, vlan: 10}  # ! an interface has no key "vlan": did you mean "vlans"?
  - {vlans: []}  # ! an interface has no "name"
  - {name: eth3, vlans: [0, 4095]}  # ! VLAN id 0 is out of range ! VLAN id 4095 is out of range
  - {name: eth4, vlans: [1, 2, 3]}  # ! 3 VLAN tags of a frame are too many: write at most 2
  - {name: eth5, vlans: 10}  # ! "vlans" must be a list, not 10
vips: [{address: 192.0.2.1, port: 80, servers: []}]
""",
    "choices": """
interfaces: [eth0]
xdp_mode: fast  # ! xdp_mode "fast" is unknown: write "auto", "native" or "generic"
vips:
  - address: 192.0.2.1
    port: 80
    protocol: sctp  # ! protocol "sctp" is unknown: write "tcp", "udp" or "quic"
    policy: yes  # ! policy yes is unknown: write "round-robin", "weighted-round-robin", "hash", "mag
    mode: full  # ! mode "full" is unknown: write "stateless", "stateful" or "cookieless"
    timestamp_layout: top  # ! timestamp_layout "top" is unknown: write "low", "msb" or "lsb"
    servers: []
""",
    "numbers and paths of the whole": """
interfaces: [eth0]
vips: [{address: 192.0.2.1, port: 80, servers: []}]
id_rest: 1w  # ! duration "1w" is not understood
handshake_rows: 5000  # ! write 4096 or 8192
connection_rows: 100  # ! connection_rows 100 is not a power of two: write 64 or 128
flow_rows: 10  # ! flow_rows 10 is out of range
flow_rate: 0  # ! flow_rate 0 is out of range
socket: poise.sock  # ! socket "poise.sock" is not an absolute path
state_directory: ~  # ! state_directory has no value
pin_directory: off  # ! pin_directory off is a truth value
""",
    "an endless rest": """
interfaces: [eth0]
vips: [{address: 192.0.2.1, port: 80, servers: []}]
id_rest: 366d  # ! out of range
handshake_rows: 512  # ! out of range
""",
    "a VIP twice": """
interfaces: [eth0]
vips:
  - {address: 192.0.2.1, port: 80, servers: []}
  - {address: 192.0.2.1, port: 81, servers: []}
  - name: again
    address: 192.0.2.1  # ! VIP 192.0.2.1:80 is already on line 4
    port: 80
    servers: []
  - {address: 192.0.2.1, port: 81, servers: []}  # ! VIP 192.0.2.1:81 is already on line 5
""",
    "names twice": """
interfaces: [eth0]
vips:
  - address: 192.0.2.1
    port: 80
    name: web
    servers:
      - {address: 10.0.0.1, port: 80, name: a}
      - {address: 10.0.0.2, port: 80, name: a}  # ! already that of the server on line 8
      - {address: 10.0.0.3, port: 80, name: "10.0.0.4:80"}
      - {address: 10.0.0.4, port: 80}  # ! already that of the server on line 10
  - address: 192.0.2.1
    port: 81
    name: web  # ! already that of the VIP on line 6
    servers:
      - {address: 10.0.0.1, port: 81, name: a}
""",
    "a server twice": """
interfaces: [eth0]
vips:
  - address: 192.0.2.1
    port: 80
    servers:
      - {address: 10.0.0.1, port: 80}
      - {address: 10.0.0.1, port: 80}  # ! server 10.0.0.1:80 is already on line 7: keep one
  - address: 192.0.2.2
    port: 80
    servers:
      - {name: x, address: 10.0.0.1, port: 80}  # ! for another VIP
""",
    "protocols tell VIPs and servers apart, but not QUIC from UDP": """
interfaces: [eth0]
vips:
  - {address: 192.0.2.1, port: 443, name: web, servers: [{address: 10.0.0.1, port: 443}]}
  - address: 192.0.2.1
    port: 443
    name: quic
    protocol: quic
    servers: [{address: 10.0.0.1, port: 443}, {address: 192.0.2.1, port: 80}]
  - address: 192.0.2.1  # ! VIP 192.0.2.1:443 is already on line 5
    port: 443
    name: other
    protocol: udp
    servers:
      - {address: 10.0.0.1, port: 443}  # ! server 10.0.0.1:443 is already on line 9 for another VIP
  - {address: 192.0.2.1, port: 80, servers: []}
""",
    "keys of other protocols and modes": """
interfaces: [eth0]
vips:
  - address: 192.0.2.1
    port: 80
    protocol: udp
    mode: stateful  # ! mode stateful is not for protocol udp: leave it out, or write `protocol: tcp`
    timestamp_layout: msb  # ! timestamp_layout is not for protocol udp
    quic_ids: [{config: 0}]  # ! quic_ids is not for protocol udp: leave it out, or write `protocol: quic`
    servers: []
  - address: 192.0.2.1
    port: 81
    mode: cookieless
    policy: least-loaded  # ! policy least-loaded does not go with mode cookieless
    servers: []
  - address: 192.0.2.1
    port: 82
    mode: stateful
    timestamp_layout: msb  # ! timestamp_layout "msb" does not go with mode stateful
    servers: []
  - address: 192.0.2.1
    port: 83
    mode: cookieless
    timestamp_layout: lsb  # ! timestamp_layout "lsb" does not go with mode cookieless
    servers: []
""",
    "QUIC ids": """
interfaces: [eth0]
vips:
  - address: 192.0.2.1
    port: 443
    protocol: quic
    servers: []
    quic_ids:
      - {config: 0, server_id_length: 15, nonce_length: 4}
      - {config: 0}  # ! config 0 is already on line 9
      - {config: 7}  # ! config 7 is out of range: write a whole number from 0 to 6
      - {config: 1, server_id_length: 16, nonce_length: 3}  # ! server_id_length 16 ! nonce_length 3
      - {config: 2, server_id_length: 4, nonce_length: 16}  # ! more than 19 bytes together
      - {config: 3, key_file: key}  # ! key_file "key" is not an absolute path
      - {nonce_length: 8, keyfile: x}  # ! has no "config" ! no key "keyfile": did you mean "key_file"?
      - {config: 6}  # ! 8 kinds of connection ids are too many: write at most 7
  - {address: 192.0.2.1, port: 444, protocol: quic, servers: [], quic_ids: []}  # ! "quic_ids" is empty
""",
    "weights": """
interfaces: [eth0]
vips:
  - address: 192.0.2.1
    port: 80
    weight: 2  # ! a VIP has no key "weight": it belongs to a server
    servers:
      - {address: 10.0.0.1, port: 80, weight: 0}  # ! weight 0 is out of range
      - {address: 10.0.0.2, port: 80, weight: 101}  # ! weight 101 is out of range
""",
    "a server that is a VIP": """
interfaces: [eth0]
vips:
  - address: 192.0.2.1
    port: 80
    servers:
      - {address: 192.0.2.2, port: 80}  # ! server 192.0.2.2:80 is the VIP of line 8
  - address: 192.0.2.2
    port: 80
    servers: []
""",
    "a VIP in a direct prefix": """
interfaces: [eth0]
direct: [10.0.0.0/8, 192.0.2.0/24, "2001:db8::/32"]
vips:
  - {address: 192.0.2.1, port: 80, servers: []}  # ! in the direct prefix 192.0.2.0/24 of line 3
  - {address: "2001:db8::1", port: 80, servers: []}  # ! in the direct prefix 2001:db8::/32 of line 3
""",
    "direct prefixes": """
interfaces: [eth0]
direct:
  - 10.0.0.1/8  # ! write 10.0.0.0/8
  - 10.0.0.0/33  # ! not an IP prefix
  - intranet  # ! not an IP prefix
  - 2001:db8::1/32  # ! write 2001:db8::/32
  - 2001:db8::/129  # ! not an IP prefix
vips: [{address: 192.0.2.1, port: 80, servers: []}]
""",
    "a bad value hides no other": """
interfaces: [eth0, eth0]  # ! already on line 2
vips:
  - address: 192.0.2.1
    port: eighty  # ! not a plain number
    servers:
      - {address: 10.0.0.1, port: 80, name: a}
  - address: 192.0.2.2
    port: 80
    polcy: hash  # ! did you mean "policy"?
    servers:
      - {address: 10.0.0.1, port: 80, name: b}  # ! for another VIP
      - {address: 10.0.0.2, name: b}  # ! has no "port" ! already that of the server
""",
    "YAML that expands": """
interfaces: [eth0]
vips:
  - &vip {address: 192.0.2.1, port: 80, servers: []}
  - *vip  # ! aliases like `*vip` are not supported
  - <<: {port: 80}  # ! merging with `<<` is not supported
    address: 192.0.2.2
    port: 80
    servers: !!python/tuple []  # ! tags like "!!python/tuple" are not supported
  - ? [a]  # ! a key must be a plain word
    : b
    address: 192.0.2.3
    port: !!float "80"  # ! tags like "!!float" are not supported
    servers: []
""",
}

# What YAML cannot read: text, line, part of the message.
UNREADABLE = {
    "tab": ("interfaces: [eth0]\nvips:\n\t- address: 192.0.2.1\n", 3, "use spaces"),
    "tab after spaces": ("interfaces: [eth0]\nvips:\n  \t- address: 192.0.2.1\n", 3, "use spaces"),
    "sign": ("interfaces: [eth0]\nvips: @web\n", 2, "needs quotes"),
    "open bracket": ("interfaces: [eth0\nvips: []\n", 1, "before line 2"),
    "open quote": ('interfaces: ["eth0]\nvips: []\n', 1, "a quote of this line is not closed"),
    "no colon": ("interfaces: [eth0]\nvips\nid_rest: 1h\n", 2, "without a colon"),
    "lone word": ("interfaces: [eth0]\nvips:\n  []\nfoo\n", 4, "without a colon"),
    "indentation": ("interfaces: [eth0]\n  vips: []\n", 2, "indent"),
    "two documents": ("interfaces: [eth0]\n---\nvips: []\n", 2, "second document"),
    "control character": ("interfaces: [eth0]\nvips: \x07\n", 2, "U+0007"),
    "escape beyond Unicode": ('interfaces:\n- "\\UFFFFFFFF"\n', 2, "an escape in quotes"),
    "half a character": ('interfaces:\n- "\\ud800"\n', 2, "an escape in quotes"),
    "unknown alias at the top": ("*x\n", 1, "aliases"),
    "deep nesting": ("[\n" * 100_000, 21, "nested too deeply"),
    "a list": ("- eth0\n", 1, "the configuration must have keys"),
    "a word": ("poise\n", 1, "the configuration must have keys"),
}


@pytest.mark.parametrize("text", MISTAKES.values(), ids=MISTAKES)
def test_every_mistake_at_its_line(tmp_path: Path, text: str) -> None:
    """Every mistake is reported, at its own line, and nothing else is."""
    assert_mistakes(tmp_path, {"poise.yaml": text})


@pytest.mark.parametrize(("text", "line", "part"), UNREADABLE.values(), ids=UNREADABLE)
def test_yaml_that_cannot_be_read(tmp_path: Path, text: str, line: int, part: str) -> None:
    """Broken YAML is one mistake at the line where reading ends, in words that say what to mend."""
    [mistake] = mistakes_in(tmp_path, text)
    assert (mistake.line, part in mistake.message) == (line, True), mistake

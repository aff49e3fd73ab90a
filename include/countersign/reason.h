/* The one list of reasons. Numbers are ABI (BPF counters): append only, never reuse.
 * X(number, name for C, name for people and machines, sentence) */
#ifndef COUNTERSIGN_REASON_H
#define COUNTERSIGN_REASON_H

#define CS_REASONS(X)                                                                                                  \
	X(0, NONE, "none", "nothing is wrong")                                                                         \
	/* datapath: the packet itself */                                                                              \
	X(1, NO_ENDPOINT, "no-endpoint", "the interface has no registered endpoint")                                   \
	X(2, SOURCE_NOT_OWNED, "source-not-owned", "the sender used an address that is not its own")                   \
	X(3, DESTINATION_NOT_OWNED, "destination-not-owned",                                                           \
		"the packet is not for the endpoint behind this interface")                                            \
	X(4, ETHERTYPE, "ethertype", "neither IPv4, IPv6 nor ARP (VLAN tags included)")                                \
	X(5, UNREADABLE_HEADER, "unreadable-header", "a header is truncated or there are too many")                    \
	X(6, NEIGHBOUR_DISCOVERY, "neighbour-discovery", "not the neighbour discovery that may pass")                  \
	X(7, MULTICAST, "multicast", "a multicast packet of a peer that must authenticate")                            \
	X(8, FRAGMENT, "fragment", "a later fragment cannot be matched to a reply")                                    \
	X(9, LINK_LOCAL, "link-local", "link-local traffic other than neighbour discovery")                            \
	/* datapath: the verdict */                                                                                    \
	X(16, POLICY_DENY, "policy-deny", "policy does not allow this peer")                                           \
	X(17, UNAUTHENTICATED, "unauthenticated", "policy asks for authentication and there is no entry yet")          \
	X(18, PEER_CANNOT_AUTHENTICATE, "peer-cannot-authenticate",                                                    \
		"policy asks for authentication of a peer that has no SVID (host, world, CIDR)")                       \
	X(19, PEER_BEHIND_NAT, "peer-behind-nat", "the peer's address was rewritten on the way")                       \
	X(20, BACKOFF, "backoff", "the pair was refused a moment ago")                                                 \
	X(21, HOLD_BUDGET, "hold-budget", "as many packets are held as may be")                                        \
	X(22, PENDING_FULL, "pending-full", "too many pairs wait for an answer")                                       \
	X(23, UNHOLDABLE, "unholdable", "the packet cannot be held")                                                   \
	X(24, HELD_TOO_LONG, "held-too-long", "no answer while the packet was held")                                   \
	X(25, REINJECTED_MISS, "reinjected-miss", "the entry was gone when the held packet returned")                  \
	X(26, DAEMON_DOWN, "daemon-down", "authd is not there to ask")                                                 \
	/* endpoint and placement */                                                                                   \
	X(32, NOT_REGISTERED, "not-registered", "no such endpoint")                                                    \
	X(33, LABELS_INVALID, "labels-invalid", "labels are malformed or too many")                                    \
	X(34, ADDRESS_TAKEN, "address-taken", "the address belongs to another endpoint")                               \
	X(35, ADDRESS_IN_QUARANTINE, "address-in-quarantine", "the address was another identity's a moment ago")       \
	X(36, PLACEMENT_REFUSED, "placement-refused",                                                                  \
		"the placement authority does not place this identity on this node")                                   \
	X(37, IDENTITIES_EXHAUSTED, "identities-exhausted", "the identity range is full")                              \
	X(38, SPIFFE_ID_TAKEN, "spiffe-id-taken", "the SPIFFE ID belongs to another identity")                         \
	X(39, INTERFACE_UNSUITABLE, "interface-unsuitable", "this kind of interface goes round the check")             \
	X(40, SHADOWED, "shadowed", "another program runs before the check")                                           \
	X(41, MAP_FULL, "map-full", "a BPF map has no room")                                                           \
	X(42, DATAPATH_DOWN, "datapath-down", "authd is not connected")                                                \
	X(43, NODE_ADDRESS_TAKEN, "node-address-taken", "another node has this address")                               \
	X(44, INTERFACE_TAKEN, "interface-taken", "another endpoint has this interface")                               \
	X(45, INTERFACE_MISSING, "interface-missing", "no such interface, or another one has its name now")            \
	/* authentication: before a byte was exchanged */                                                              \
	X(64, DIRECTORY_STALE, "directory-stale", "the directory has been silent for too long")                        \
	X(65, NO_LOCAL_SVID, "no-local-svid", "the local identity has no SVID yet")                                    \
	X(66, NO_BUNDLE, "no-bundle", "no trust bundle for the peer's trust domain")                                   \
	X(67, PEER_NODE_UNKNOWN, "peer-node-unknown", "the connection's address belongs to no registered node")        \
	X(68, PEER_NOT_PLACED, "peer-not-placed", "the identity is not placed on the node that spoke for it")          \
	X(69, PEER_UNREACHABLE, "peer-unreachable", "no connection to the peer's node")                                \
	X(70, PEER_TIMEOUT, "peer-timeout", "the peer's node did not answer in time")                                  \
	X(71, TOO_MANY, "too-many", "a limit on connections, handshakes or entries was met")                           \
	X(72, HANDSHAKER_DIED, "handshaker-died", "the handshaker ended during the handshake")                         \
	X(73, SIGNER_UNAVAILABLE, "signer-unavailable", "spire-adapter did not sign")                                  \
	X(74, SPIFFE_ID_UNKNOWN, "spiffe-id-unknown", "no identity of the directory has the peer's SPIFFE ID")         \
	/* authentication: the peer */                                                                                 \
	X(80, NOT_TLS, "not-tls", "what came is not TLS 1.3")                                                          \
	X(81, SNI_INVALID, "sni-invalid", "the server name is not an identity in canonical form")                      \
	X(82, NO_LOCAL_ENDPOINT, "no-local-endpoint", "no endpoint of that identity here")                             \
	X(83, NO_CERTIFICATE, "no-certificate", "the peer sent no certificate")                                        \
	X(84, CHAIN_TOO_LARGE, "chain-too-large", "more than 4 certificates or 16 KiB")                                \
	X(85, CERTIFICATE_MALFORMED, "certificate-malformed", "the certificate does not parse")                        \
	X(86, SVID_PROFILE, "svid-profile", "the certificate breaks the X.509-SVID profile")                           \
	X(87, ALGORITHM_REFUSED, "algorithm-refused", "a key or signature algorithm is not accepted")                  \
	X(88, UNTRUSTED, "untrusted", "no authority of the bundle signed the chain")                                   \
	X(89, SVID_EXPIRED, "svid-expired", "the certificate is not valid now")                                        \
	X(90, SPIFFE_ID_MISMATCH, "spiffe-id-mismatch", "the certificate is another identity's")                       \
	X(91, TRUST_DOMAIN_MISMATCH, "trust-domain-mismatch", "the identity belongs to another trust domain")          \
	X(92, VERIFIERS_DISAGREE, "verifiers-disagree", "two verifiers came to different answers")                     \
	X(93, REVOKED, "revoked", "a revocation names it")                                                             \
	X(94, SIGNATURE_INVALID, "signature-invalid", "the peer does not hold the key")                                \
	X(95, PROTOCOL_REFUSED, "protocol-refused", "the peer asked for a protocol that is not spoken here")           \
	/* authentication: the answer */                                                                               \
	X(104, VERDICT_ALERT, "verdict-alert", "the peer refused us")                                                  \
	X(105, VERDICT_TRUNCATED, "verdict-truncated", "the connection ended without an answer")                       \
	X(106, VERDICT_GARBAGE, "verdict-garbage", "bytes came where only an end may")                                 \
	X(107, STALE_VERDICT, "stale-verdict", "the world changed during the handshake")                               \
	X(108, POLICY_NO_LONGER_ASKS, "policy-no-longer-asks", "policy no longer asks for this pair")                  \
	X(109, MAP_WRITE_FAILED, "map-write-failed", "the entry could not be written")                                 \
	/* services */                                                                                                 \
	X(112, ROLE_REFUSED, "role-refused", "the caller's role does not have this method")                            \
	X(113, NOT_LEADER, "not-leader", "another replica of the cluster role leads, and only that one writes")        \
	X(114, STORE_UNAVAILABLE, "store-unavailable", "the cluster's store does not answer; nothing new is written")
#define CS_REASON_MAX 128

enum cs_reason {
#define CS_X(number, c, name, sentence) CS_R_##c = number,
	CS_REASONS(CS_X)
#undef CS_X
};
#endif

package main

import "encoding/asn1"

type asn1Bits = asn1.BitString

func unmarshal(der []byte, into any) {
	must(asn1.Unmarshal(der, into))
}

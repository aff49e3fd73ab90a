/* Endpoints: what may be registered, and the five conditions. (What cannot be registered, with its reasons, is a table in
 * tests/integration/test_identityd.py.) */
#include "endpoint.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#define STEP(name) COUNTERSIGN__V1__STEP__STEP_##name

static struct cs_endpoint_spec make_spec(const char *value)
{
	Countersign__V1__EndpointSpec pb = COUNTERSIGN__V1__ENDPOINT_SPEC__INIT;
	Countersign__V1__Label a = COUNTERSIGN__V1__LABEL__INIT, b = COUNTERSIGN__V1__LABEL__INIT;
	Countersign__V1__Label *labels[] = {&b, &a};
	Countersign__V1__Address v4 = COUNTERSIGN__V1__ADDRESS__INIT, v6 = COUNTERSIGN__V1__ADDRESS__INIT;
	Countersign__V1__Address *addrs[] = {&v4, &v6};
	uint8_t ip4[4] = {10, 0, 0, 1}, ip6[16] = {0xfd, [15] = 1};
	a.source = (char *)"k8s";
	a.key = (char *)"a";
	a.value = (char *)value;
	b.source = (char *)"container";
	b.key = (char *)"b";
	v4.ip = (ProtobufCBinaryData){4, ip4};
	v6.ip = (ProtobufCBinaryData){16, ip6};
	pb.id = (char *)"e1";
	pb.labels = labels;
	pb.n_labels = 2;
	pb.addresses = addrs;
	pb.n_addresses = 2;
	pb.interface = (char *)"veth1";
	pb.audit = true;
	struct cs_endpoint_spec spec;
	struct cs_error e;
	if (cs_endpoint_spec_check(&pb, &spec, &e) < 0)
		fail_msg("%s", e.text);
	return spec;
}

static void test_spec_round_trip(void **state)
{
	(void)state;
	struct cs_endpoint_spec spec = make_spec("1"), again, other = make_spec("2");
	assert_string_equal(spec.labels_text, "k8s:a=1;container:b=;");
	Countersign__V1__EndpointSpec *pb = cs_endpoint_spec_message(&spec);
	struct cs_error e;
	assert_int_equal(cs_endpoint_spec_check(pb, &again, &e), 0);
	assert_true(cs_endpoint_spec_equal(&spec, &again));
	assert_false(cs_endpoint_spec_equal(&spec, &other));
	again.dhcp = !again.dhcp;
	assert_false(cs_endpoint_spec_equal(&spec, &again));
	again.dhcp = !again.dhcp;
	again.audit = !again.audit;
	assert_false(cs_endpoint_spec_equal(&spec, &again));
	again.audit = !again.audit;
	again.naddrs--;
	assert_false(cs_endpoint_spec_equal(&spec, &again));
	countersign__v1__endpoint_spec__free_unpacked(pb, NULL);
	cs_endpoint_spec_fini(&spec);
	cs_endpoint_spec_fini(&again);
	cs_endpoint_spec_fini(&other);
}

static void test_conditions(void **state)
{
	(void)state;
	struct cs_endpoint_spec spec = make_spec("1");
	struct cs_node_endpoint *ep = cs_endpoint_new_take(&spec, 7, 1000);
	const Countersign__V1__Step both[] = {STEP(SVID_READY), STEP(ENFORCED)};
	assert_true(ep->conditions[STEP(REGISTERED)].met);
	assert_int_equal(ep->conditions[STEP(ENFORCED)].reason, CS_R_DATAPATH_DOWN);
	assert_int_equal(ep->conditions[STEP(SVID_READY)].reason, CS_R_NO_LOCAL_SVID);
	/* The cause first: who has no identity has no SVID either. */
	assert_int_equal(cs_endpoint_unmet(ep, both, 2), STEP(IDENTIFIED));
	cs_endpoint_set(ep, STEP(IDENTIFIED), true, CS_R_NONE, NULL, 1000);
	assert_int_equal(cs_endpoint_unmet(ep, both, 2), STEP(PLACED));
	cs_endpoint_set(ep, STEP(PLACED), true, CS_R_NONE, NULL, 1000);
	assert_int_equal(cs_endpoint_unmet(ep, both, 2), STEP(SVID_READY));
	/* In either order. */
	assert_true(cs_endpoint_set(ep, STEP(ENFORCED), true, CS_R_NONE, NULL, 2000));
	assert_int_equal(cs_endpoint_unmet(ep, both, 2), STEP(SVID_READY));
	assert_int_equal(cs_endpoint_unmet(ep, both + 1, 1), 0);
	assert_true(cs_endpoint_set(ep, STEP(SVID_READY), true, CS_R_NONE, NULL, 3000));
	assert_int_equal(cs_endpoint_unmet(ep, both, 2), 0);
	/* `since` is when it was met; why it is degraded may change. */
	assert_false(cs_endpoint_set(ep, STEP(ENFORCED), true, CS_R_NONE, "", 4000));
	assert_true(cs_endpoint_set(ep, STEP(ENFORCED), true, CS_R_SHADOWED, "by x", 4000));
	assert_int_equal(ep->conditions[STEP(ENFORCED)].since_unix_ms, 2000);
	assert_true(cs_endpoint_set(ep, STEP(ENFORCED), false, CS_R_MAP_FULL, NULL, 5000));
	assert_int_equal(ep->conditions[STEP(ENFORCED)].since_unix_ms, 5000);
	/* What may quote anything stays a string of a message. */
	cs_endpoint_set(ep, STEP(ENFORCED), false, CS_R_MAP_FULL, "\xff\xfe\n", 5000);
	assert_string_equal(ep->conditions[STEP(ENFORCED)].detail, "???");
	/* Another incarnation begins anew. */
	cs_endpoint_reset(ep, 8, 6000);
	assert_int_equal(cs_endpoint_unmet(ep, both, 2), STEP(SVID_READY));
	assert_int_equal(ep->conditions[STEP(REGISTERED)].since_unix_ms, 1000);
	Countersign__V1__EndpointStatus *status = cs_endpoint_status(ep, "n1");
	assert_int_equal(status->n_conditions, 5);
	assert_int_equal(status->incarnation, 8);
	assert_string_equal(status->conditions[3]->reason->name, "datapath-down");
	countersign__v1__endpoint_status__free_unpacked(status, NULL);
	cs_endpoint_free(ep);
	cs_endpoint_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spec_round_trip),
		cmocka_unit_test(test_conditions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

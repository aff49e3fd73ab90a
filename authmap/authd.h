/* countersign-authd from the inside: the parts, and the few things that tie them together. One of these per process. */
#ifndef CS_AUTHD_H
#define CS_AUTHD_H

#include "admission.h"
#include "apply.h"
#include "attach.h"
#include "authd_settings.h"
#include "clockwatch.h"
#include "creds.h"
#include "events.h"
#include "follow.h"
#include "handshakers.h"
#include "hold.h"
#include "net.h"
#include "netlink.h"
#include "pairs.h"
#include "report.h"
#include "shares.h"
#include "verdict.h"

struct attempt; /* authenticate.c */
struct cs_auth_service;
struct cs_authd_checks;
struct cs_authd_metrics;

struct cs_authd {
	struct cs_daemon *daemon;
	struct cs_loop *loop;
	const struct cs_authd_config *config;

	/* What is known */
	struct cs_world *world;
	struct cs_svids *svids;
	struct cs_pairs *pairs;
	struct cs_events *events;

	/* The node */
	struct cs_datapath *dp;
	struct cs_attach *attach;
	struct cs_hold *hold;
	struct cs_apply apply;
	struct cs_netlink *netlink;
	struct cs_clockwatch clockwatch;

	/* The others */
	struct cs_directory *directory;
	struct cs_svids_stream *svids_stream;
	struct cs_report *report;
	struct cs_handshakers *handshakers;
	struct cs_creds *creds;
	struct cs_net *net;
	struct cs_auth_service *service;

	/* Work in flight: authenticate.c */
	struct attempt *attempts; /* hash by request */
	struct cs_shares *shares; /* of the dials among them */
	struct cs_pair *waiting;  /* for a free place, in order */
	size_t nwaiting;
	bool pumping;
	uint64_t next_request;
	struct cs_admission *admission;

	struct cs_authd_metrics *metrics;
	struct cs_authd_checks *checks;
	struct cs_timer second, pump;
	int64_t next_revocation_unix_s; /* 0: none is written ahead */
	bool synced;                    /* directory and SVIDs have both said so: adopted entries were looked at */
	bool was_stale;
	uint64_t clock_jumps;
};

/* The daemon's life: struct cs_daemon_spec. */
CS_MUST_USE int cs_authd_start(struct cs_daemon *d, struct cs_error *e);
void cs_authd_stop(struct cs_daemon *d);
void cs_authd_fini(struct cs_daemon *d);

/* Now, on all clocks. */
struct cs_instant cs_authd_now(const struct cs_authd *a);
/* What verdicts and entries are judged by, now. */
struct cs_facts cs_authd_facts(const struct cs_authd *a);
/* After the world, or an interface, has changed: maps, credentials, listeners, reports. */
void cs_authd_apply(struct cs_authd *a);

#endif

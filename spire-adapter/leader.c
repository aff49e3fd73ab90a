#include "leader.h"

#include <countersign/v1/status.pb-c.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "grpc.h"
#include "instance.h"

struct cs_leader {
	struct cs_grpc_channel *channel;
	struct cs_timer timer;
	void (*changed)(void *data);
	void *data;
	bool known, leads, asking, closing;
	unsigned failures;   /* in a row */
	struct cs_error why; /* it is not known */
};

static void set_known(struct cs_leader *l, bool known, bool leads)
{
	bool before = l->leads;
	l->known = known;
	l->leads = leads;
	if (leads != before)
		l->changed(l->data);
}

static void not_heard(struct cs_leader *l)
{
	if (++l->failures >= CS_LEADER_FAILURES)
		set_known(l, false, false);
}

static void on_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	struct cs_leader *l = data;
	l->asking = false;
	if (l->closing)
		return;
	if (status->code != CS_GRPC_OK) {
		cs_error_reason(&l->why, -EAGAIN, status->reason, "identityd does not say whether it leads: %s %.500s",
			cs_grpc_code_name(status->code), status->message);
		not_heard(l);
		return;
	}
	l->failures = 0;
	const Countersign__V1__StatusReply *said = (const void *)reply;
	bool leads = said->leadership == COUNTERSIGN__V1__LEADERSHIP__LEADERSHIP_LEADER;
	bool follows = said->leadership == COUNTERSIGN__V1__LEADERSHIP__LEADERSHIP_FOLLOWER;
	if (!leads && !follows)
		cs_error_set(&l->why, -EINVAL,
			"identityd has the role '%.100s' here; the registrar runs beside one that has the cluster role",
			said->role);
	set_known(l, leads || follows, leads);
}

static void ask(struct cs_timer *timer)
{
	const Countersign__V1__StatusRequest request = COUNTERSIGN__V1__STATUS_REQUEST__INIT;
	const struct cs_grpc_call_options options = {.timeout_ms = CS_LEADER_ASK_MS};
	struct cs_leader *l = timer->data;
	struct cs_error e;
	if (l->asking)
		return;
	l->asking = cs_grpc_unary(l->channel, &countersign__v1__status__descriptor, "Get", &request.base, &options,
			    on_reply, l, NULL, &e) == 0;
	if (!l->asking) {
		l->why = e;
		not_heard(l);
	}
}

int cs_leader_new(struct cs_loop *loop, const char *socket, void (*changed)(void *data), void *data,
	struct cs_leader **ret, struct cs_error *e)
{
	char target[CS_PATH + 8];
	struct cs_leader *l = calloc(1, sizeof(*l));
	if (!l)
		return cs_error_set(e, -ENOMEM, "out of memory");
	*l = (struct cs_leader){.changed = changed, .data = data};
	cs_error_reason(&l->why, -EAGAIN, CS_R_DIRECTORY_STALE, "identityd has not been heard yet on %s", socket);
	snprintf(target, sizeof(target), "unix:%s", socket);
	const struct cs_grpc_channel_options options = {.target = target, .backoff_max_ms = CS_LEADER_ASK_MS};
	int r = cs_grpc_channel_new(loop, &options, &l->channel, e);
	if (r < 0) {
		free(l);
		return r;
	}
	cs_timer_init(&l->timer, loop, ask, l);
	cs_timer_start(&l->timer, 0, CS_LEADER_ASK_MS);
	*ret = l;
	return 0;
}

bool cs_leader_is(const struct cs_leader *l)
{
	return l->leads;
}

bool cs_leader_is_known(const struct cs_leader *l, struct cs_error *e)
{
	if (!l->known)
		*e = l->why;
	return l->known;
}

void cs_leader_close(struct cs_leader *l)
{
	if (!l || l->closing)
		return;
	l->closing = true;
	cs_timer_close(&l->timer, NULL);
	cs_grpc_channel_close(l->channel, NULL, NULL);
}

void cs_leader_free(struct cs_leader *l)
{
	free(l);
}

/* Registrations on their way to the disk, and what happens once they are there. */
#include "node_private.h"

#include <errno.h>
#include "log.h"
#include "mem.h"

#define QUEUE_MAX 1024 /* registrations that wait for the disk */

/* --- after the disk --- */

static void install(struct cs_node *node, struct disk_op *op)
{
	struct cs_node_endpoint *old = cs_node_endpoint(node, op->spec.id);
	if (old && cs_endpoint_spec_equal(&old->spec, &op->spec))
		return; /* two calls with the same */
	struct cs_node_endpoint *ep = cs_endpoint_new_take(&op->spec, cs_node_random(), cs_node_unix_ms(node));
	ep->ifindex = op->ifindex;
	if (old) {
		cs_node_move_begin(ep, old);
		HASH_DEL(node->endpoints, old);
		cs_node_changed(node, old, true);
		cs_endpoint_free(old);
	}
	HASH_ADD_KEYPTR(hh, node->endpoints, ep->spec.id, strlen(ep->spec.id), ep);
	cs_node_check_link(node, ep);
	cs_metric_add(node->registered, 1, "registered");
	cs_info("endpoint registered", cs_str("endpoint", ep->spec.id), cs_str("interface", ep->spec.interface),
		cs_str("labels", ep->spec.labels_text));
	cs_node_refresh(node, ep); /* closed from here on, unless it moves */
	cs_node_claim(node, ep);
}

static void uninstall(struct cs_node *node, struct disk_op *op)
{
	struct cs_node_endpoint *ep = cs_node_endpoint(node, op->spec.id);
	if (!ep)
		return;
	HASH_DEL(node->endpoints, ep);
	cs_node_forget_record(node, ep->spec.id);
	cs_node_release(node, ep->spec.id);
	cs_metric_add(node->registered, 1, "unregistered");
	cs_info("endpoint unregistered", cs_str("endpoint", ep->spec.id), cs_u64("identity", ep->identity));
	cs_node_changed(node, ep, true);
	cs_endpoint_free(ep);
}

static void start_writing(struct cs_node *node);

static void write_now(uv_work_t *work)
{
	struct cs_node *node = work->data;
	if (cs_registrations_write(
		    node->options.state_dir, node->writing, node->nrunning, &node->written, &node->write_error) == 0)
		node->write_error.code = 0;
}

static void written(uv_work_t *work, int status)
{
	(void)status; /* never cancelled */
	struct cs_node *node = work->data;
	struct disk_op *ops = node->running;
	struct cs_registration *writing = node->writing;
	size_t n = node->nrunning, done = node->written;
	struct cs_error e = node->write_error;
	node->running = NULL;
	node->writing = NULL;
	node->nrunning = 0;
	if (done < n) {
		cs_check_error(node->check_disk, &e);
		cs_fail("registrations could not be stored", cs_u64("count", n - done), cs_err(&e));
	} else {
		cs_check_ok(node->check_disk);
	}
	for (size_t i = 0; i < done; i++) {
		if (ops[i].put)
			install(node, &ops[i]);
		else
			uninstall(node, &ops[i]);
	}
	cs_node_publish(node);
	for (size_t i = 0; i < n; i++) {
		if (ops[i].written)
			ops[i].written(ops[i].data, i < done ? NULL : &e);
		cs_endpoint_spec_fini(&ops[i].spec);
		free(writing[i].bytes);
		free(writing[i].id);
	}
	free(ops);
	free(writing);
	start_writing(node);
	cs_node_maybe_closed(node);
}

static void start_writing(struct cs_node *node)
{
	if (node->nrunning > 0 || node->nqueue == 0)
		return;
	size_t n = node->nqueue < CS_WRITER_BATCH_MAX ? node->nqueue : CS_WRITER_BATCH_MAX;
	node->running = cs_xmemdup(node->queue, n * sizeof(*node->queue));
	node->writing = cs_xcalloc(n, sizeof(*node->writing));
	for (size_t i = 0; i < n; i++) {
		node->writing[i].id = cs_xstrdup(node->running[i].spec.id);
		if (!node->running[i].put)
			continue;
		Countersign__V1__EndpointSpec *m = cs_endpoint_spec_message(&node->running[i].spec);
		node->writing[i].n = countersign__v1__endpoint_spec__get_packed_size(m);
		node->writing[i].bytes = cs_xcalloc(1, node->writing[i].n);
		countersign__v1__endpoint_spec__pack(m, node->writing[i].bytes);
		countersign__v1__endpoint_spec__free_unpacked(m, NULL);
	}
	memmove(node->queue, node->queue + n, (node->nqueue - n) * sizeof(*node->queue));
	node->nqueue -= n;
	node->nrunning = n;
	cs_metric_set(node->waiting, (double)node->nqueue);
	node->work.data = node;
	uv_queue_work(&node->options.loop->uv, &node->work, write_now, written);
}

/* --- before the disk --- */

/* Takes op->spec over. */
static void enqueue_take(struct cs_node *node, struct disk_op *op)
{
	if (node->nqueue == node->capqueue) {
		node->capqueue = node->capqueue ? node->capqueue * 2 : 16;
		node->queue = cs_xrealloc(node->queue, node->capqueue, sizeof(*node->queue));
	}
	node->queue[node->nqueue++] = *op;
	cs_metric_set(node->waiting, (double)node->nqueue);
}

static int clash(const struct cs_endpoint_spec *a, const struct cs_endpoint_spec *b, struct cs_error *e)
{
	char text[CS_IP_TEXT];
	if (strcmp(a->id, b->id) == 0)
		return 0;
	if (strcmp(a->interface, b->interface) == 0)
		return cs_error_reason(e, -EEXIST, CS_R_INTERFACE_TAKEN,
			"the interface %s belongs to endpoint '%s' already", a->interface, b->id);
	for (size_t i = 0; i < a->naddrs; i++)
		for (size_t k = 0; k < b->naddrs; k++)
			if (cs_ip_equal(&a->addrs[i], &b->addrs[k]))
				return cs_error_reason(e, -EEXIST, CS_R_ADDRESS_TAKEN,
					"%s belongs to endpoint '%s' of this node", cs_ip_text(&a->addrs[i], text),
					b->id);
	return 0;
}

/* What is, or will be when the queue is written, under an id: the last word counts. NULL: nothing. */
static const struct cs_endpoint_spec *upcoming(const struct cs_node *node, const char *id)
{
	const struct disk_op *lists[] = {node->queue, node->running};
	const size_t sizes[] = {node->nqueue, node->nrunning};
	for (int l = 0; l < 2; l++)
		for (size_t i = sizes[l]; i > 0; i--)
			if (strcmp(lists[l][i - 1].spec.id, id) == 0)
				return lists[l][i - 1].put ? &lists[l][i - 1].spec : NULL;
	struct cs_node_endpoint *ep = cs_node_endpoint(node, id);
	return ep ? &ep->spec : NULL;
}

/* Every endpoint that is or will be, but for those that fn skips. */
static int clash_with_any(const struct cs_node *node, const struct cs_endpoint_spec *spec, struct cs_error *e)
{
	int r = 0;
	struct cs_node_endpoint *ep, *tmp;
	HASH_ITER (hh, node->endpoints, ep, tmp)
		if (r == 0 && upcoming(node, ep->spec.id) == &ep->spec)
			r = clash(spec, &ep->spec, e);
	for (size_t i = 0; i < node->nqueue && r == 0; i++)
		if (node->queue[i].put && upcoming(node, node->queue[i].spec.id) == &node->queue[i].spec)
			r = clash(spec, &node->queue[i].spec, e);
	for (size_t i = 0; i < node->nrunning && r == 0; i++)
		if (node->running[i].put && upcoming(node, node->running[i].spec.id) == &node->running[i].spec)
			r = clash(spec, &node->running[i].spec, e);
	return r;
}

static int check_room(const struct cs_node *node, size_t more, struct cs_error *e)
{
	if (node->closing)
		return cs_error_set(e, -ESHUTDOWN, "identityd is ending");
	if (node->nqueue + more > QUEUE_MAX)
		return cs_error_reason(
			e, -ENOBUFS, CS_R_TOO_MANY, "%zu registrations wait for the disk already", node->nqueue);
	if (HASH_COUNT(node->endpoints) + node->nqueue + more > CS_NODE_ENDPOINTS_MAX + QUEUE_MAX ||
		HASH_COUNT(node->endpoints) >= CS_NODE_ENDPOINTS_MAX)
		return cs_error_reason(
			e, -ENOBUFS, CS_R_TOO_MANY, "a node has at most %d endpoints", CS_NODE_ENDPOINTS_MAX);
	return 0;
}

int cs_node_register_take(struct cs_node *node, struct cs_endpoint_spec *spec, bool *ret_same, cs_node_written *done,
	void *data, struct cs_error *e)
{
	const struct cs_endpoint_spec *before = upcoming(node, spec->id);
	struct cs_node_endpoint *ep = cs_node_endpoint(node, spec->id);
	unsigned ifindex = 0;
	*ret_same = before && ep && before == &ep->spec && cs_endpoint_spec_equal(before, spec);
	int r = *ret_same ? 0 : before ? check_room(node, 0, e) : check_room(node, 1, e);
	if (r == 0 && !*ret_same)
		r = cs_link_find(spec->interface, &ifindex, e);
	if (r == 0 && !*ret_same)
		r = clash_with_any(node, spec, e);
	if (r < 0 || *ret_same) {
		cs_endpoint_spec_fini(spec);
		return r;
	}
	struct disk_op op = {.spec = *spec, .ifindex = ifindex, .put = true, .written = done, .data = data};
	*spec = (struct cs_endpoint_spec){0};
	enqueue_take(node, &op);
	start_writing(node);
	return 0;
}

int cs_node_unregister(struct cs_node *node, const char *id, cs_node_written *done, void *data, struct cs_error *e)
{
	if (!upcoming(node, id))
		return cs_error_reason(
			e, -ENOENT, CS_R_NOT_REGISTERED, "no endpoint '%.128s' is registered on this node", id);
	if (node->closing)
		return cs_error_set(e, -ESHUTDOWN, "identityd is ending");
	struct disk_op op = {.spec = {.id = cs_xstrdup(id)}, .written = done, .data = data};
	enqueue_take(node, &op);
	start_writing(node);
	return 0;
}

/* --- reconcile --- */

/* One answer for several writes. */
struct group {
	size_t left;
	struct cs_error error; /* the first; code 0: none */
	cs_node_written *written;
	void *data;
};

static void group_written(void *data, const struct cs_error *e)
{
	struct group *group = data;
	if (e && group->error.code == 0)
		group->error = *e;
	if (--group->left > 0)
		return;
	group->written(group->data, group->error.code ? &group->error : NULL);
	free(group);
}

static const struct cs_endpoint_spec *in_list(const struct cs_endpoint_spec *specs, size_t n, const char *id)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(specs[i].id, id) == 0)
			return &specs[i];
	return NULL;
}

static int check_list(const struct cs_endpoint_spec *specs, size_t n, unsigned *ifindexes, struct cs_error *e)
{
	int r = n > CS_NODE_ENDPOINTS_MAX ? cs_error_reason(e, -ENOBUFS, CS_R_TOO_MANY,
						    "a node has at most %d endpoints", CS_NODE_ENDPOINTS_MAX)
					  : 0;
	for (size_t i = 0; i < n && r == 0; i++) {
		r = cs_link_find(specs[i].interface, &ifindexes[i], e);
		for (size_t k = 0; k < i && r == 0; k++)
			r = strcmp(specs[i].id, specs[k].id) == 0
				    ? cs_error_set(e, -EINVAL, "the id '%s' is there twice", specs[i].id)
				    : clash(&specs[i], &specs[k], e);
	}
	return r;
}

/* The ids that are, or are about to be, and are not in the list. */
static void collect_gone(
	const struct cs_node *node, const struct cs_endpoint_spec *specs, size_t n, char ***gone, size_t *ngone)
{
	struct cs_node_endpoint *ep, *tmp;
	HASH_ITER (hh, node->endpoints, ep, tmp) {
		if (in_list(specs, n, ep->spec.id) || !upcoming(node, ep->spec.id))
			continue;
		*gone = cs_xrealloc(*gone, *ngone + 1, sizeof(char *));
		(*gone)[(*ngone)++] = cs_xstrdup(ep->spec.id);
	}
	for (size_t l = 0; l < 2; l++) {
		const struct disk_op *ops = l ? node->running : node->queue;
		size_t nops = l ? node->nrunning : node->nqueue;
		for (size_t i = 0; i < nops; i++) {
			const char *id = ops[i].spec.id;
			if (upcoming(node, id) != &ops[i].spec || in_list(specs, n, id) || cs_node_endpoint(node, id))
				continue;
			*gone = cs_xrealloc(*gone, *ngone + 1, sizeof(char *));
			(*gone)[(*ngone)++] = cs_xstrdup(id);
		}
	}
}

int cs_node_reconcile_take(struct cs_node *node, struct cs_endpoint_spec *specs, size_t n, char ***ret_gone,
	size_t *ret_ngone, cs_node_written *done, void *data, struct cs_error *e)
{
	unsigned *ifindexes = cs_xcalloc(n, sizeof(*ifindexes));
	*ret_gone = NULL;
	*ret_ngone = 0;
	int r = node->closing ? cs_error_set(e, -ESHUTDOWN, "identityd is ending") : check_list(specs, n, ifindexes, e);
	if (r == 0 && node->nqueue + n > QUEUE_MAX)
		r = cs_error_reason(
			e, -ENOBUFS, CS_R_TOO_MANY, "%zu registrations wait for the disk already", node->nqueue);
	if (r < 0) {
		for (size_t i = 0; i < n; i++)
			cs_endpoint_spec_fini(&specs[i]);
		free(ifindexes);
		return r;
	}
	struct group *group = cs_xcalloc(1, sizeof(*group));
	*group = (struct group){.left = 1, .written = done, .data = data};
	collect_gone(node, specs, n, ret_gone, ret_ngone);
	for (size_t i = 0; i < *ret_ngone; i++) { /* first: they make room for addresses and interfaces */
		struct disk_op op = {
			.spec = {.id = cs_xstrdup((*ret_gone)[i])}, .written = group_written, .data = group};
		group->left++;
		enqueue_take(node, &op);
	}
	for (size_t i = 0; i < n; i++) {
		const struct cs_endpoint_spec *before = upcoming(node, specs[i].id);
		if (before && cs_endpoint_spec_equal(before, &specs[i])) {
			cs_endpoint_spec_fini(&specs[i]);
			continue;
		}
		struct disk_op op = {.spec = specs[i],
			.ifindex = ifindexes[i],
			.put = true,
			.written = group_written,
			.data = group};
		specs[i] = (struct cs_endpoint_spec){0};
		group->left++;
		enqueue_take(node, &op);
	}
	free(ifindexes);
	start_writing(node);
	group_written(group, NULL);
	return 0;
}

/* --- at the start, and at the end --- */

static int load_one(void *data, const uint8_t *bytes, size_t n, struct cs_error *e)
{
	struct cs_node *node = data;
	struct cs_endpoint_spec spec;
	Countersign__V1__EndpointSpec *m = countersign__v1__endpoint_spec__unpack(NULL, n, bytes);
	if (!m)
		return cs_error_set(e, -EINVAL, "not a registration");
	int r = cs_endpoint_spec_check(m, &spec, e);
	countersign__v1__endpoint_spec__free_unpacked(m, NULL);
	if (r < 0)
		return r;
	struct cs_node_endpoint *ep = cs_endpoint_new_take(&spec, 0, cs_node_unix_ms(node));
	HASH_ADD_KEYPTR(hh, node->endpoints, ep->spec.id, strlen(ep->spec.id), ep);
	cs_node_check_link(node, ep);
	cs_node_refresh(node, ep);
	return 0;
}

int cs_node_load(struct cs_node *node, struct cs_error *e)
{
	return cs_registrations_load(node->options.state_dir, load_one, node, e);
}

void cs_node_disk_fini(struct cs_node *node)
{
	struct cs_error e;
	cs_error_set(&e, -ESHUTDOWN, "identityd is ending");
	for (size_t i = 0; i < node->nqueue; i++) {
		if (node->queue[i].written)
			node->queue[i].written(node->queue[i].data, &e);
		cs_endpoint_spec_fini(&node->queue[i].spec);
	}
	free(node->queue);
}

/* Reading ranges and writing transactions. */
#include "etcd_private.h"

#include <errno.h>
#include "mem.h"

static ProtobufCBinaryData bytes_of(struct cs_etcd_bytes b)
{
	return (ProtobufCBinaryData){.len = b.len, .data = (uint8_t *)(uintptr_t)b.data};
}

static void take_kvs(struct cs_etcd_kv *to, Mvccpb__KeyValue *const *from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = (struct cs_etcd_kv){.key = {from[i]->key.data, from[i]->key.len},
			.value = {from[i]->value.data, from[i]->value.len},
			.create_revision = from[i]->create_revision,
			.mod_revision = from[i]->mod_revision,
			.lease = from[i]->lease};
}

static void finish_range(struct etcd_call *call, const struct cs_etcd_result *result, const ProtobufCMessage *reply)
{
	cs_etcd_on_range *done = (cs_etcd_on_range *)call->done;
	const Etcdserverpb__RangeResponse *range = (const Etcdserverpb__RangeResponse *)reply;
	if (!range) {
		done(result, NULL, 0, false, call->data);
		return;
	}
	struct cs_etcd_kv *kvs = cs_xcalloc(range->n_kvs, sizeof(*kvs));
	take_kvs(kvs, range->kvs, range->n_kvs);
	done(result, kvs, range->n_kvs, range->more, call->data);
	free(kvs);
}

int cs_etcd_range(struct cs_etcd *etcd, const struct cs_etcd_range *range, int64_t timeout_ms, cs_etcd_on_range *done,
	void *data, struct cs_error *e)
{
	Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
	request.key = bytes_of(range->key);
	request.range_end = bytes_of(range->end);
	request.limit = range->limit;
	request.revision = range->revision;
	request.keys_only = range->keys_only;
	const struct etcd_call_spec spec = {.service = &etcdserverpb__kv__descriptor,
		.method = "Range",
		.request = &request.base,
		.reads = true,
		.timeout_ms = timeout_ms,
		.finish = finish_range,
		.done = (void (*)(void))done,
		.data = data};
	return cs_etcd_call_new(etcd, &spec, e);
}

static void finish_txn(struct etcd_call *call, const struct cs_etcd_result *result, const ProtobufCMessage *reply)
{
	cs_etcd_on_txn *done = (cs_etcd_on_txn *)call->done;
	const Etcdserverpb__TxnResponse *txn = (const Etcdserverpb__TxnResponse *)reply;
	if (!txn) {
		done(result, false, NULL, 0, call->data);
		return;
	}
	struct cs_etcd_kv *kvs = NULL;
	size_t n = 0;
	for (size_t i = 0; i < txn->n_responses; i++) {
		const Etcdserverpb__ResponseOp *op = txn->responses[i];
		if (op->response_case != ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE)
			continue;
		kvs = cs_xrealloc(kvs, n + op->response_range->n_kvs, sizeof(*kvs));
		take_kvs(kvs + n, op->response_range->kvs, op->response_range->n_kvs);
		n += op->response_range->n_kvs;
	}
	done(result, txn->succeeded, kvs, n, call->data);
	free(kvs);
}

/* One allocation for a branch: the pointers, the ops, and what they point to. */
struct branch {
	Etcdserverpb__RequestOp **list;
	struct one {
		Etcdserverpb__RequestOp op;
		union {
			Etcdserverpb__PutRequest put;
			Etcdserverpb__DeleteRangeRequest del;
			Etcdserverpb__RangeRequest get;
		};
	} * ones;
};

static void make_op(struct one *one, const struct cs_etcd_op *op)
{
	etcdserverpb__request_op__init(&one->op);
	switch (op->kind) {
	case CS_ETCD_PUT:
		etcdserverpb__put_request__init(&one->put);
		one->put.key = bytes_of(op->key);
		one->put.value = bytes_of(op->value);
		one->put.lease = op->lease;
		one->op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
		one->op.request_put = &one->put;
		break;
	case CS_ETCD_DELETE:
		etcdserverpb__delete_range_request__init(&one->del);
		one->del.key = bytes_of(op->key);
		one->op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
		one->op.request_delete_range = &one->del;
		break;
	case CS_ETCD_GET:
		etcdserverpb__range_request__init(&one->get);
		one->get.key = bytes_of(op->key);
		one->op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
		one->op.request_range = &one->get;
		break;
	}
}

static struct branch make_branch(const struct cs_etcd_op *ops, size_t n)
{
	struct branch branch = {cs_xcalloc(n, sizeof(*branch.list)), cs_xcalloc(n, sizeof(*branch.ones))};
	for (size_t i = 0; i < n; i++) {
		make_op(&branch.ones[i], &ops[i]);
		branch.list[i] = &branch.ones[i].op;
	}
	return branch;
}

static void free_branch(struct branch *branch)
{
	free(branch->list);
	free(branch->ones);
}

static void make_compare(Etcdserverpb__Compare *to, const struct cs_etcd_compare *from)
{
	etcdserverpb__compare__init(to);
	to->key = bytes_of(from->key);
	to->result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL;
	if (from->what == CS_ETCD_CREATE_REVISION) {
		to->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE;
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION;
		to->create_revision = from->is;
	} else {
		to->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
		to->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
		to->mod_revision = from->is;
	}
}

int cs_etcd_txn(struct cs_etcd *etcd, const struct cs_etcd_txn *txn, int64_t timeout_ms, cs_etcd_on_txn *done,
	void *data, struct cs_error *e)
{
	Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
	Etcdserverpb__Compare *compares = cs_xcalloc(txn->ncompares, sizeof(*compares));
	struct branch then = make_branch(txn->then, txn->nthen),
		      otherwise = make_branch(txn->otherwise, txn->notherwise);
	request.n_compare = txn->ncompares;
	request.compare = cs_xcalloc(txn->ncompares, sizeof(*request.compare));
	for (size_t i = 0; i < txn->ncompares; i++) {
		make_compare(&compares[i], &txn->compares[i]);
		request.compare[i] = &compares[i];
	}
	request.n_success = txn->nthen;
	request.success = then.list;
	request.n_failure = txn->notherwise;
	request.failure = otherwise.list;
	const struct etcd_call_spec spec = {.service = &etcdserverpb__kv__descriptor,
		.method = "Txn",
		.request = &request.base,
		.timeout_ms = timeout_ms,
		.finish = finish_txn,
		.done = (void (*)(void))done,
		.data = data};
	int r = cs_etcd_call_new(etcd, &spec, e);
	free_branch(&then);
	free_branch(&otherwise);
	free(compares);
	free(request.compare);
	return r;
}

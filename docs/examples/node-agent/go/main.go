// A node agent, as small as it can be: what a CNI plugin, or whoever starts workloads, says to countersign-identityd.
//
//	agent SOCKET add ID INTERFACE ADDRESS[,ADDRESS...] LABEL...
//	agent SOCKET del ID
//	agent SOCKET reconcile FILE    (or - for standard input)
//
// SOCKET is DIR/identityd/endpoints.sock of the instance. FILE is a JSON list of
// {"id": ..., "interface": ..., "addresses": [...], "labels": ["k8s:app=web", ...]}.
package main

//go:generate ./generate.sh /usr/include

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "countersign/examples/node-agent/countersignv1"
)

const (
	addTime = 30 * time.Second // less than the runtime gives a CNI plugin
	askTime = 10 * time.Second
	service = "/countersign.v1.Endpoints/"
)

type workload struct {
	ID        string   `json:"id"`
	Interface string   `json:"interface"`
	Addresses []string `json:"addresses"`
	Labels    []string `json:"labels"`
}

func (w workload) spec() (*pb.EndpointSpec, error) {
	spec := &pb.EndpointSpec{Id: w.ID, Interface: w.Interface}
	for _, text := range w.Addresses {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		spec.Addresses = append(spec.Addresses, &pb.Address{Ip: address.AsSlice()})
	}
	for _, text := range w.Labels {
		source, rest, ok := strings.Cut(text, ":")
		if !ok {
			return nil, fmt.Errorf("%q is no label: write SOURCE:KEY=VALUE", text)
		}
		key, value, _ := strings.Cut(rest, "=")
		spec.Labels = append(spec.Labels, &pb.Label{Source: source, Key: key, Value: value})
	}
	return spec, nil
}

// refused says why a call failed: Reason is a word that a program can act on ("address-in-quarantine",
// "placement-refused", ...), or empty.
type refused struct {
	Code    string `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	code    codes.Code
}

func (r *refused) Error() string { return r.Message }

// ask calls until identityd is there, for it may be starting, or for as long as there is time.
func ask(conn *grpc.ClientConn, method string, request, reply proto.Message, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		var trailer metadata.MD
		err := conn.Invoke(ctx, service+method, request, reply, grpc.WaitForReady(true), grpc.Trailer(&trailer))
		if err == nil {
			return nil
		}
		if status.Code(err) != codes.Unavailable {
			reason := strings.Join(trailer.Get("countersign-reason"), "")
			s := status.Convert(err)
			return &refused{s.Code().String(), reason, s.Message(), s.Code()}
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// add is CNI ADD, once the interface and the addresses are there and before anything runs behind it. It fails as a
// whole: the runtime calls DEL, and ADD again later.
func add(conn *grpc.ClientConn, w workload) (any, error) {
	spec, err := w.spec()
	if err != nil {
		return nil, err
	}
	// Not SVID_READY: what SPIRE itself needs could not start.
	request := &pb.RegisterRequest{Spec: spec, WaitFor: []pb.Step{pb.Step_STEP_ENFORCED}}
	var reply pb.EndpointStatus
	if err := ask(conn, "RegisterEndpoint", request, &reply, addTime); err != nil {
		return nil, err
	}
	return map[string]any{"id": w.ID, "identity": reply.Identity, "spiffe_id": reply.SpiffeId}, nil
}

// del is CNI DEL, before the interface goes. It must succeed for what is not there.
func del(conn *grpc.ClientConn, id string) (any, error) {
	err := ask(conn, "UnregisterEndpoint", &pb.UnregisterRequest{Id: id}, &pb.UnregisterReply{}, askTime)
	var r *refused
	if err != nil && (!errors.As(err, &r) || r.code != codes.NotFound) {
		return nil, err
	}
	return map[string]any{"id": id}, nil
}

// reconcile is for the agent's start, before its first ADD: everything that runs here. What identityd knows beyond that
// goes.
func reconcile(conn *grpc.ClientConn, file string) (any, error) {
	in := os.Stdin
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer opened.Close()
		in = opened
	}
	var all []workload
	if err := json.NewDecoder(in).Decode(&all); err != nil {
		return nil, err
	}
	request := &pb.ReconcileRequest{}
	for _, w := range all {
		spec, err := w.spec()
		if err != nil {
			return nil, err
		}
		request.Specs = append(request.Specs, spec)
	}
	var reply pb.ReconcileReply
	if err := ask(conn, "Reconcile", request, &reply, askTime); err != nil {
		return nil, err
	}
	ids, gone := []string{}, append([]string{}, reply.Unregistered...)
	for _, e := range reply.Endpoints {
		ids = append(ids, e.Spec.Id)
	}
	sort.Strings(ids)
	sort.Strings(gone)
	return map[string]any{"endpoints": ids, "unregistered": gone}, nil
}

func run(args []string) (any, error) {
	conn, err := grpc.NewClient("unix:"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	switch {
	case args[1] == "add" && len(args) >= 6:
		return add(conn, workload{args[2], args[3], strings.Split(args[4], ","), args[5:]})
	case args[1] == "del" && len(args) == 3:
		return del(conn, args[2])
	case args[1] == "reconcile" && len(args) == 3:
		return reconcile(conn, args[2])
	}
	return nil, errors.New("wrong usage; see the top of main.go")
}

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: agent SOCKET add|del|reconcile ...; see the top of main.go")
		os.Exit(2)
	}
	out := json.NewEncoder(os.Stdout)
	answer, err := run(os.Args[1:])
	var r *refused
	if errors.As(err, &r) {
		out.Encode(r)
		os.Exit(1)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out.Encode(answer)
}

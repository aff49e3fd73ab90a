package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// call makes a unary call over a Unix socket: JSON in, JSON out.
func call(ctx context.Context, socket, service, name string, body []byte) ([]byte, error) {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	if err != nil {
		return nil, err
	}
	method, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no method", name)
	}
	in, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	if err != nil {
		return nil, err
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		return nil, err
	}
	request, reply := in.New().Interface(), out.New().Interface()
	if len(body) > 0 {
		if err := protojson.Unmarshal(body, request); err != nil {
			return nil, err
		}
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := conn.Invoke(ctx, "/"+service+"/"+name, request, reply); err != nil {
		return nil, err
	}
	return protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(reply)
}

// callOnce is the program's other use: a call of any SPIRE server.
func callOnce(socket, method string) error {
	service, name, ok := strings.Cut(method, "/")
	if !ok {
		return fmt.Errorf("%q is not SERVICE/METHOD", method)
	}
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	reply, err := call(context.Background(), socket, service, name, body)
	if err != nil {
		return err
	}
	_, err = fmt.Println(string(reply))
	return err
}

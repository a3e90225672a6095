r"""How wide must a shallow network be to imitate a given network within an error? Lower bounds.

A shallow network of R units is a sum of R products g(odd sites) h(even sites). So are the matrices of its scores of
rank R at most, and the distance of a matrix from those of rank R is known from its singular values [Eckart, Young].

    A, images.py and curve.py   on K^2 mixed images, whatever the features of the shallow network are
    B, tensor.py                in the tensor itself: R >= (1 - eps^2)^2 / sum_k p_k^2 = (1 - eps^2)^2 R_2
    C, tensor.py                the same, each site weighted as the data weigh it

p_k are the squared singular values of the odd/even matricization over their sum.
"""
